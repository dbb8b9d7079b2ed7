import { describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { scope } from "../base/scope.ts";
import { settleAll } from "../base/settle.ts";
import type { Spec } from "../oci/spec.ts";
import { limitsOf } from "./container-limits.ts";
import { consoleSizeOf } from "./console-size.ts";
import { addContainerFiles } from "./container-files.ts";
import type { ContainerPlan } from "./container-plan.ts";
import { ContainerHooks } from "./hooks.ts";
import type { HostState } from "./host-state.ts";
import { type OpenGuestStream, ProcessIo } from "./io.ts";
import type { CreateContainerRequest } from "./model.ts";
import { loopbackNameServers } from "./name-servers.ts";
import type { SandboxObserver } from "./observer.ts";
import { declareStdio } from "./stdio-ends.ts";
import type { Timeline } from "./timeline.ts";
import type { SandboxVm } from "./vm.ts";

/** A delete must end when the guest hangs, too; what it keeps in there goes with the VM. */
const forgetTimeoutMs = 4_000;
const streamsTimeoutMs = 30_000;

export interface Making {
  readonly request: CreateContainerRequest;
  readonly spec: Spec;
  readonly plan: ContainerPlan;
}

/** What a sandbox has for the container that is made in it. */
export interface MakingParts {
  readonly host: HostState;
  /** Boots the VM unless it runs. */
  readonly boot: () => Promise<{ readonly vm: SandboxVm }>;
  readonly timeline: Timeline;
  readonly log: Log;
  readonly observer: SandboxObserver | undefined;
}

export interface MadeInGuest {
  readonly vm: SandboxVm;
  /** Open, and being connected; the caller owns it. */
  readonly io: ProcessIo;
  readonly hooks: ContainerHooks;
}

/**
 * Makes a container in the guest while its files are put up, its streams are opened and its VM boots; the streams are connected
 * beside what comes after. When it fails the
 * streams are closed; files, VM and what the guest has of it are the caller's to remove.
 */
export async function makeInGuest(
  { request, spec, plan }: Making,
  { host, boot, timeline, log, observer }: MakingParts,
  signal: AbortSignal,
): Promise<MadeInGuest> {
  const { containerId, stdio } = request;
  let io: ProcessIo | undefined;
  try {
    // What has failed is not waited for with the reader of a FIFO, which may never come.
    const failure = new AbortController();
    const orFail = <T>(work: Promise<T>) => {
      work.catch((error: unknown) => failure.abort(error));
      return work;
    };
    const ioSignal = AbortSignal.any([signal, failure.signal]);
    const [{ vm }, shared, opened] = await settleAll([
      orFail(boot()),
      orFail(timeline.measure("mounts", () => addContainerFiles(request, { spec, binds: plan.binds }, host))),
      ProcessIo.open({ stdio }, log, ioSignal, observer).then((value) => {
        io = value;
        return value;
      }),
    ]);
    const hooks = new ContainerHooks(request, spec, { pid: vm.vm.identity.pid, netnsPath: vm.netnsPath });
    await hooks.beforeCreate(signal);
    const disks = await vm.volumes.hold(plan.blockDevices, containerId);
    await timeline.measure("container create", () =>
      vm.agent.createContainer(
        {
          containerId,
          ...plan.guest(shared),
          disks,
          stdio: { ...declareStdio(request), ...consoleSizeOf(spec.process?.consoleSize) },
          noPivotRoot: request.noPivotRoot,
          notify: request.notify ?? false,
          descriptors: request.descriptors?.guest ?? [],
          environment: request.environment ?? [],
        },
        signal,
      ),
    );
    // The start waits for them.
    void timeline.measure("streams", () =>
      connectWithin(opened, vm.openStream(containerId, ""), streamsTimeoutMs),
    );
    await timeline.measure("cgroup", () => vm.inCgroup());
    vm.growth.add(containerId, limitsOf(spec.linux?.resources ?? {}));
    return { vm, io: opened, hooks };
  } catch (error) {
    io?.close();
    throw error;
  }
}

async function connectWithin(io: ProcessIo, open: OpenGuestStream, timeoutMs: number): Promise<void> {
  using limit = scope(undefined, timeoutMs, "the connection to a container's streams");
  await io.connect(open, limit.signal).catch(() => {
    // The start fails with it.
  });
}

/** Has the guest forget a container, as far as it answers in time, and takes away what the VM had for it. Never rejects. */
export async function forgetInGuest(
  { agent, volumes, growth }: Pick<SandboxVm, "agent" | "volumes" | "growth">,
  containerId: string,
  log: Log,
): Promise<void> {
  using limit = scope(undefined, forgetTimeoutMs, "the delete of a container in the guest");
  await agent.deleteProcess({ containerId, execId: "" }, limit.signal).catch((error: unknown) => {
    log.debug({ error: describe(error) }, "delete of a container in the guest");
  });
  growth.remove(containerId);
  await volumes.release(containerId);
}

export interface LateNetwork {
  readonly sandboxId: string;
  /** Of the container that is about to start. */
  readonly spec: Spec;
  readonly timeoutMs: number;
  readonly log: Log;
}

/** Gives the guest a network that has come since its boot, and the name servers that only the host reaches. */
export async function joinLateNetwork(
  vm: SandboxVm,
  { sandboxId, spec, timeoutMs, log }: LateNetwork,
): Promise<void> {
  using limit = scope(undefined, timeoutMs, `the network of sandbox "${sandboxId}"`);
  await vm.joinLateNetwork(limit.signal);
  try {
    await vm.serveNames(await loopbackNameServers(spec), limit.signal);
  } catch (error) {
    // A container that names nobody by name works without.
    log.warn({ error: describe(error) }, "a name server of the host does not serve the guest");
  }
}
