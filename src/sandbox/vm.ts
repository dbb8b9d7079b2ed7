import { randomBytes } from "node:crypto";
import { chown, mkdir } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

import type { Agent } from "../agent-client/agent.ts";
import type { AgentEvents } from "../agent-client/agent-types.ts";
import type { ConnectionTarget } from "../agent-client/connection.ts";
import type { BlockDevice } from "../agent-client/guest-devices.ts";
import { rootDiskId } from "../agent-client/root-disk.ts";
import { watchHealth } from "../agent-client/health.ts";
import { openStream } from "../agent-client/streams.ts";
import { Cleanup } from "../base/cleanup.ts";
import type { Daemon } from "../base/daemon.ts";
import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import { openShortPath } from "../base/files.ts";
import type { Log } from "../base/log.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import { scope } from "../base/scope.ts";
import { settleAll } from "../base/settle.ts";
import type { Config } from "../config/config.ts";
import { chooseAccelerator, type HostVirtualization, inspectHost } from "../hypervisor/accelerator.ts";
import type { Hypervisor, RunningVm } from "../hypervisor/hypervisor.ts";
import { formatKernelParams } from "../hypervisor/kernel-params.ts";
import type { VmConfig } from "../hypervisor/vm-config.ts";
import type { GuestNetwork } from "../network/endpoint.ts";
import type { Spec } from "../oci/spec.ts";
import { shareTag } from "../storage/shared-dir.ts";
import { startVirtiofsd, type Virtiofsd } from "../storage/virtiofsd.ts";
import { BlockVolumes, findBlockVolumes } from "./block-volumes.ts";
import { cgroupPlaceOf } from "./cgroup-path.ts";
import { addGuestPhases, configureGuest } from "./configure-guest.ts";
import { describeConsole } from "./console-end.ts";
import { type GuestConnections, guestConnections } from "./connections.ts";
import { findGuestFiles } from "./guest-files.ts";
import { findHostDevices } from "./host-devices.ts";
import type { HostState } from "./host-state.ts";
import type { OpenGuestStream } from "./io.ts";
import { NameForwarder } from "./name-servers.ts";
import type { SandboxObserver } from "./observer.ts";
import { orOomKill } from "./oom-kill.ts";
import { growthOf, sizeOf, thisHost } from "./sizing.ts";
import type { Timeline } from "./timeline.ts";
import { VmGrowth } from "./vm-growth.ts";
import { makeVmNetwork } from "./vm-network.ts";
import { makeCgroupFor, VmPlace } from "./vm-place.ts";
import { makeVmVsock, type VmVsock } from "./vm-vsock.ts";

const virtiofsSocketName = "virtiofs.sock";
/** How long the end of QEMU may take to be noticed after that of a helper that served it. */
const vmmEndNoticeMs = 1_000;

export interface VmRequest {
  readonly namespace: string;
  readonly sandboxId: string;
  readonly host: HostState;
  readonly config: Config;
  readonly hypervisor: Hypervisor;
  /** Of the container that the sandbox is made for: size, network, hostname. */
  readonly spec: Spec;
  readonly blockDevices: readonly BlockDevice[];
  /** IOMMU groups of the host whose PCI devices the guest gets; none without. */
  readonly vfioGroups?: readonly number[];
  /** EROFS image of the root of that container. */
  readonly rootImage?: string | undefined;
  /** Nothing of the host's files will be seen in the VM: it gets no share, and no server for one. */
  readonly isWithoutShare?: boolean;
  readonly events: AgentEvents;
  readonly log: Log;
  readonly timeline: Timeline;
  readonly observer: SandboxObserver | undefined;
  readonly signal: AbortSignal;
}

/** Whose VM it is. `host` is what the VM was booted with, under its new name. */
export type VmIdentity = Pick<VmRequest, "sandboxId" | "host" | "config" | "spec" | "log" | "signal">;

/** A booted guest with a configured agent, and everything on the host that belongs to it. */
export interface SandboxVm extends AsyncDisposable {
  readonly vm: RunningVm;
  readonly growth: VmGrowth;
  readonly netnsPath: string;
  /** Of the VM on the host. */
  processes(): readonly ProcessIdentity[];
  readonly volumes: BlockVolumes;
  readonly agent: Agent;
  /** Resolves with a reason when the VM has ended or its agent is lost (the VM is killed then). Never rejects. */
  readonly lost: Promise<string>;
  openStream(containerId: string, execId: string): OpenGuestStream;
  /** Connects to something in the guest. The caller owns the stream, which breaks when the VM ends. */
  connect(target: ConnectionTarget, signal: AbortSignal): Promise<Duplex>;
  /** Gives the guest the network that has come to its namespace since the boot, if there is one. Safe to call again. */
  joinLateNetwork(signal: AbortSignal): Promise<void>;
  /** See `NameForwarder`. */
  serveNames(addresses: readonly string[], signal: AbortSignal): Promise<void>;
  /**
   * Makes a VM that was booted for nobody, and has no container, that of a sandbox: namespace, cgroup, clock, random seed, name,
   * sysctls. When it fails the VM is of no use any more.
   */
  become(next: VmIdentity): Promise<void>;
  /** Resolves when the processes of the VM are in its cgroup. No container of a VM that has become one's own is started before. */
  inCgroup(): Promise<void>;
}

/**
 * Boots the VM of a sandbox whose directory and journal exist. What can be made at the same time is. On failure nothing
 * of it is left, and the error has the VMM's last words and the end of the guest's console.
 */
export async function bootSandboxVm(request: VmRequest): Promise<SandboxVm> {
  const { config, log, timeline, signal } = request;
  const { paths, journal, uid } = request.host;
  await using cleanup = new Cleanup();
  using limit = scope(signal, config.bootTimeoutMs, `the boot of sandbox "${request.sandboxId}"`);
  // Before anything is made: what is missing or does not fit is said at once.
  const guest = findGuestFiles(config);
  const size = sizeOf(request.spec, config, thisHost());
  const growth = config.machine === "q35" && guest.acpi ? growthOf(size, config, thisHost()) : undefined;
  cgroupPlaceOf(request.spec, config);
  const volumes = await findBlockVolumes(request.blockDevices);
  const hostDevices = await findHostDevices(request.vfioGroups ?? []);
  const host = await inspectHost();
  const accelerator = chooseAccelerator(config.accel, host);
  if (accelerator === "tcg")
    log.warn("accelerator tcg: software emulation is for development and tests and is no security boundary");
  const user = { uid, gid: uid };

  await mkdir(paths.vm, { mode: 0o700 });
  await chown(paths.vm, user.uid, user.gid);
  const vmDirectory = openShortPath(paths.vm);
  cleanup.defer("handle of the VM's directory", () => vmDirectory[Symbol.dispose]());
  const parts = new Cleanup();
  cleanup.defer("host parts of the VM", () => parts[Symbol.asyncDispose]());
  const [vsock, network, virtiofsd, cgroup] = await settleAll([
    makeVsock(request, user, vmDirectory.path, parts),
    timeline.measure("network", () =>
      makeVmNetwork({ spec: request.spec, paths, journal }, parts, limit.signal),
    ),
    timeline.measure("virtiofsd", async () =>
      request.isWithoutShare
        ? undefined
        : await serveShare(request, user, `${vmDirectory.path}/${virtiofsSocketName}`, parts),
    ),
    makeCgroupFor(request.spec, { config, journal, log }),
  ]);
  if (virtiofsd !== undefined) cgroup?.add(virtiofsd.identity.pid);

  const vmConfig: VmConfig = {
    sandboxId: request.sandboxId,
    directory: paths.vm,
    user,
    machine: config.machine,
    accelerator,
    vcpus: size.vcpus,
    memoryMiB: size.memoryMiB,
    ...(growth !== undefined && { growth }),
    kernel: {
      path: guest.kernelPath,
      ...(guest.initrdPath === undefined ? {} : { initrdPath: guest.initrdPath }),
      commandLine: formatKernelParams({
        hasInitrd: guest.initrdPath !== undefined,
        ...tscParams(accelerator, host),
        readyPort: vsock.ready.port,
        canGrow: growth !== undefined,
        debugAgent: config.debugGuest,
      }),
      acpi: guest.acpi,
    },
    disks: [
      { id: "image", path: guest.imagePath, readOnly: true, isShared: true },
      ...(request.rootImage === undefined
        ? []
        : [{ id: rootDiskId, path: request.rootImage, readOnly: true }]),
      ...volumes.values(),
    ],
    shares: virtiofsd === undefined ? [] : [{ tag: shareTag, socketName: virtiofsSocketName }],
    nics: network.nics,
    hostDevices,
    vsock: vsock.device,
    netnsPath: network.netnsPath,
  };
  const vm = await timeline.measure("VMM", () =>
    orOomKill(cgroup, () =>
      request.hypervisor.boot(vmConfig, {
        signal: AbortSignal.any([limit.signal, ...(virtiofsd === undefined ? [] : [abortWith(virtiofsd)])]),
        onProcess: (name, identity) => {
          cgroup?.add(identity.pid);
          journal.add({ kind: "process", name, identity });
        },
      }),
    ),
  );
  cleanup.defer("VM", () => vm[Symbol.asyncDispose]());
  await network.closeTaps();
  vsock.closeDevice();
  const vmStartedMs = performance.now();
  // QEMU has its answers by now, so there is somebody who gave them.
  const worker = virtiofsd?.worker();
  if (worker !== undefined) {
    cgroup?.add(worker.pid);
    journal.add({ kind: "process", name: "virtiofsd worker", identity: worker });
  }
  if (virtiofsd !== undefined) request.host.shared.serve(virtiofsd.identity.pid);
  await cgroup?.moved();
  // The guest boots meanwhile. gRPC is large, and not needed before.
  const agentClient = import("../agent-client/agent.ts");
  const reachable = Promise.withResolvers<GuestConnections>();
  const processes = () => [
    ...vm.processes.values(),
    ...[virtiofsd?.identity, virtiofsd?.worker()].filter((identity) => identity !== undefined),
  ];
  const place = new VmPlace({
    network,
    cgroup,
    processes,
    vm,
    connections: reachable.promise,
    log,
  });
  cleanup.defer("port-forward", () => place[Symbol.asyncDispose]());
  const over = Promise.race([
    vm.exited.then(({ reason }) => reason),
    ...(virtiofsd === undefined ? [] : [endOf(virtiofsd)]),
  ]);
  const ended = over.then((reason) => place.explainEnd(reason));

  try {
    const streamToken = randomBytes(16);
    await unless(ended, vsock.ready.ready(limit.signal));
    const readyMs = performance.now();
    const { Agent } = await agentClient;
    const agent = new Agent(vsock.guest, config.agentCallTimeoutMs, (...call) =>
      request.observer?.onAgentCall(...call),
    );
    cleanup.defer("agent connection", () => agent[Symbol.dispose]());
    const report = await timeline.measure("configure", () =>
      unless(ended, configureGuest(agent, { ...request, streamToken, network: network.guest }, limit.signal)),
    );
    addGuestPhases(timeline, report, vmStartedMs, readyMs);
    const health = new AbortController();
    cleanup.defer("health watch", () => health.abort());
    const losses = [
      over,
      agent
        .subscribe(request.events)
        .then((words) => `the agent is lost: ${words}; ${describeConsole(vm.consoleTail())}`),
      watchHealth((pingSignal) => pingWithin(agent, config.healthIntervalMs, log, pingSignal), {
        intervalMs: config.healthIntervalMs,
        signal: health.signal,
      }),
    ];
    const lost = watchLoss(vm, losses).then((reason) => place.explainEnd(reason));
    const address = { guest: vsock.guest, token: streamToken.toString("hex") };
    const connections = guestConnections(address, { timeoutMs: config.agentCallTimeoutMs, lost });
    cleanup.defer("connections to the guest", () => connections[Symbol.dispose]());
    reachable.resolve(connections);
    const names = new NameForwarder({ agent, netnsPath: () => place.netnsPath, log });
    const owned = cleanup.move();
    return {
      vm,
      growth: new VmGrowth({ vm, agent, size, growth, memoryOverheadMiB: config.memoryOverheadMiB }),
      get netnsPath() {
        return place.netnsPath;
      },
      processes,
      volumes: new BlockVolumes(vm, volumes, log),
      agent,
      lost,
      openStream: (containerId, execId) => (name, streamSignal) =>
        openStream({ ...address, containerId, execId, name }, streamSignal),
      connect: (target, connectSignal) => connections.connect(target, connectSignal),
      joinLateNetwork: (joinSignal) => place.joinLateNetwork(agent, joinSignal),
      serveNames: (addresses, serveSignal) => names.serve(addresses, serveSignal),
      become: async (next) => {
        // Its share is mounted already.
        const identity = { ...next, streamToken, isWithoutShare: true };
        const tell = (moved: GuestNetwork) =>
          configureGuest(agent, { ...identity, network: moved }, next.signal);
        await place.moveTo(next.spec, next, tell, next.signal);
        // Last: what waits for the server could not go to another.
        if (virtiofsd !== undefined) next.host.shared.serve(virtiofsd.identity.pid);
      },
      inCgroup: () => place.inCgroup(),
      [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose](),
    };
  } catch (error) {
    throw withConsole(error, request.sandboxId, vm);
  }
}

/** Its phase in the timeline says which way was chosen. */
async function makeVsock(
  { hypervisor, config, timeline }: VmRequest,
  user: { uid: number; gid: number },
  directory: string,
  parts: Cleanup,
): Promise<VmVsock> {
  const startMs = performance.now();
  const vsock = await makeVmVsock({ hypervisor, config, directory, user }, parts);
  timeline.add(`vsock (${vsock.device.tag})`, startMs, performance.now() - startMs);
  return vsock;
}

async function serveShare(
  request: VmRequest,
  user: { uid: number; gid: number },
  socketPath: string,
  parts: Cleanup,
): Promise<Virtiofsd> {
  const { paths, shared, journal } = request.host;
  const virtiofsd = await startVirtiofsd({
    program: request.config.virtiofsdPath,
    sharedDirectory: shared.path,
    directory: paths.vm,
    socketPath,
    user,
  });
  parts.defer("virtiofsd", () => virtiofsd.stop(0));
  journal.add({ kind: "process", name: virtiofsd.name, identity: virtiofsd.identity });
  return virtiofsd;
}

function tscParams(accelerator: "kvm" | "tcg", host: HostVirtualization): { tscKhz?: number } {
  return accelerator === "tcg" && host.cpu.tscKhz !== undefined ? { tscKhz: host.cpu.tscKhz } : {};
}

/** Aborts when a helper ends that the VM cannot boot without. */
function abortWith(daemon: Daemon): AbortSignal {
  const controller = new AbortController();
  void endOf(daemon).then((words) => controller.abort(new RuntimeError("unavailable", words)));
  return controller.signal;
}

/**
 * Resolves with a helper's last words. One that ends with success does so because QEMU hung up: then QEMU's end is the
 * news, which is given the time to arrive.
 */
async function endOf(daemon: Daemon): Promise<string> {
  const { exitCode } = await daemon.exited;
  if (exitCode === 0) await sleep(vmmEndNoticeMs, undefined, { ref: false });
  return daemon.lastWords();
}

/** Resolves with `work`, or rejects as soon as the VM or a helper of it has ended. */
async function unless<T>(ended: Promise<string>, work: Promise<T>): Promise<T> {
  const failure = ended.then((reason) => {
    throw new RuntimeError("unavailable", `the VM ended before its agent was ready: ${reason}`);
  });
  failure.catch(() => {
    // The race may be over already.
  });
  return await Promise.race([work, failure]);
}

/**
 * Ends the VM when anything is lost that it cannot go on without: a helper (the guest would hang in its file system), the
 * agent (nobody else may answer in its place), or the guest's answers.
 */
async function watchLoss(vm: RunningVm, losses: readonly Promise<string>[]): Promise<string> {
  const reason = await Promise.race(losses);
  await vm.stop({ graceMs: 0 });
  return reason;
}

async function pingWithin(agent: Agent, timeoutMs: number, log: Log, signal: AbortSignal): Promise<void> {
  using limit = scope(signal, timeoutMs, "the ping of the guest's agent");
  const agentResidentBytes = await agent.ping(limit.signal);
  log.debug({ agentResidentBytes }, "the guest answers");
}

function withConsole(error: unknown, sandboxId: string, vm: RunningVm): RuntimeError {
  return new RuntimeError(
    codeOf(error),
    `Cannot boot sandbox "${sandboxId}": ${describe(error)}; ${describeConsole(vm.consoleTail())}`,
  );
}
