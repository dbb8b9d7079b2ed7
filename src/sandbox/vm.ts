import { randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";

import type { Agent } from "../agent-client/agent.ts";
import type { AgentEvents } from "../agent-client/agent-types.ts";
import type { ConnectionTarget } from "../agent-client/connection.ts";
import type { BlockDevice } from "../agent-client/guest-devices.ts";
import { watchHealth } from "../agent-client/health.ts";
import { openStream } from "../agent-client/streams.ts";
import { Cleanup } from "../base/cleanup.ts";
import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import { scope } from "../base/scope.ts";
import type { Config } from "../config/config.ts";
import type { Hypervisor, RunningVm } from "../hypervisor/hypervisor.ts";
import type { GuestNetwork } from "../network/endpoint.ts";
import type { Spec } from "../oci/spec.ts";
import { BlockVolumes } from "./block-volumes.ts";
import { addGuestPhases, configureGuest } from "./configure-guest.ts";
import { describeConsole } from "./console-end.ts";
import { type GuestConnections, guestConnections } from "./connections.ts";
import type { HostState } from "./host-state.ts";
import type { OpenGuestStream } from "./io.ts";
import { NameForwarder } from "./name-servers.ts";
import type { SandboxObserver } from "./observer.ts";
import { coldBoot, startVm } from "./start-vm.ts";
import type { Timeline } from "./timeline.ts";
import { VmGrowth } from "./vm-growth.ts";
import { VmPlace } from "./vm-place.ts";

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
 * Boots the VM of a sandbox whose directory and journal exist, or restores it. On failure nothing of it is left, and the error has the
 * VMM's last words and the end of the guest's console.
 */
export async function bootSandboxVm(request: VmRequest, origin = coldBoot): Promise<SandboxVm> {
  const { config, log, timeline, signal } = request;
  await using cleanup = new Cleanup();
  using limit = scope(signal, config.bootTimeoutMs, `the boot of sandbox "${request.sandboxId}"`);
  const started = await startVm(request, origin, cleanup, limit.signal);
  const { vm, startedMs, size, growth, vsock, network, virtiofsd, cgroup, over } = started;
  // The guest boots meanwhile. gRPC is large, and not needed before.
  const agentClient = import("../agent-client/agent.ts");
  const reachable = Promise.withResolvers<GuestConnections>();
  const place = new VmPlace({
    network,
    cgroup,
    processes: () => started.processes(),
    vm,
    connections: reachable.promise,
    log,
  });
  cleanup.defer("port-forward", () => place[Symbol.asyncDispose]());
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
    // The clock of a restored guest goes on from when it was saved.
    if (origin.memory?.tag === "restored") timeline.add("guest: restored", startedMs, readyMs - startedMs);
    else addGuestPhases(timeline, report, startedMs, readyMs);
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
      processes: () => started.processes(),
      volumes: new BlockVolumes(vm, started.volumes, log),
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

/** Resolves with `work`, or rejects as soon as the VM or a helper of it has ended. */
export async function unless<T>(ended: Promise<string>, work: Promise<T>): Promise<T> {
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
