import type { Agent } from "../agent-client/agent.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import type { Log } from "../base/log.ts";
import type { Config } from "../config/config.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import type { GuestNetwork } from "../network/endpoint.ts";
import type { Spec } from "../oci/spec.ts";
import { cgroupPlaceOf } from "./cgroup-path.ts";
import type { GuestConnections } from "./connections.ts";
import type { HostState } from "./host-state.ts";
import { withOomKill } from "./oom-kill.ts";
import { makePodCgroup, type PodCgroup } from "./pod-cgroup.ts";
import { forwardLoopback } from "./port-forward.ts";
import type { Journal } from "./journal.ts";
import { lateNetwork, namespacePath, nicSlots, overSpare, type VmNetwork } from "./vm-network.ts";

const noNetwork: GuestNetwork = { interfaces: [], routes: [], neighbours: [] };

/** The cgroup that a spec names for the VM; without one the VM stays where the daemon is. */
export async function makeCgroupFor(
  spec: Spec,
  { config, journal, log }: { readonly config: Config; readonly journal: Journal; readonly log: Log },
): Promise<PodCgroup | undefined> {
  const place = cgroupPlaceOf(spec, config);
  if (place === undefined) return undefined;
  return await makePodCgroup(place, { onMake: (made) => journal.add({ kind: "cgroup", ...made }), log });
}

export interface VmPlaceParts {
  readonly network: VmNetwork;
  readonly cgroup: PodCgroup | undefined;
  /** Of the VMM and its helpers. */
  readonly processes: () => readonly ProcessIdentity[];
  readonly vm: RunningVm;
  readonly connections: Promise<GuestConnections>;
  readonly log: Log;
}

/** Where on the host a VM is: its network namespace, with what leads from there into the guest, and its cgroup. */
export class VmPlace implements AsyncDisposable {
  readonly #parts: VmPlaceParts;
  #netnsPath: string;
  #cgroup: PodCgroup | undefined;
  #placing: Promise<void> = Promise.resolve();
  #forwarder: AsyncDisposable;
  #joinLate: ReturnType<typeof lateNetwork>;

  constructor(parts: VmPlaceParts) {
    this.#parts = parts;
    this.#netnsPath = parts.network.netnsPath;
    this.#cgroup = parts.cgroup;
    this.#forwarder = this.#forward();
    this.#joinLate = lateNetwork(parts.network.spare, nicSlots(parts.vm), parts.vm.identity.pid);
  }

  get netnsPath(): string {
    return this.#netnsPath;
  }

  /** The reason of the VM's end, with the host's part in it. */
  explainEnd(reason: string): Promise<string> {
    return withOomKill(this.#cgroup, reason);
  }

  /** Gives the guest the network that has come to its namespace since the boot, if there is one. Safe to call again. */
  joinLateNetwork(agent: Agent, signal: AbortSignal): Promise<void> {
    return this.#joinLate(agent, signal);
  }

  /**
   * Takes a VM whose own namespace has no links to the namespace and the cgroup of a spec. `host` is the VM's under its new name.
   * `tell` tells the guest its network, while the kernel moves processes.
   *
   * @throws unimplemented, already_exists, not_found  the namespace has several links, another sandbox, or is none
   */
  async moveTo(
    spec: Spec,
    { host, config, log }: { readonly host: HostState; readonly config: Config; readonly log: Log },
    tell: (network: GuestNetwork) => Promise<unknown>,
    signal: AbortSignal,
  ): Promise<void> {
    this.#placing = this.#moveCgroup(spec, { config, journal: host.journal, log });
    this.#placing.catch(() => {
      // Whoever waits for it is told.
    });
    await tell(await this.#moveNetwork(spec, host, signal));
  }

  /**
   * Resolves when the VM and its helpers are in their cgroup.
   *
   * @throws permission_denied, resource_exhausted  it cannot be made, or does not take a process
   */
  async inCgroup(): Promise<void> {
    await this.#placing;
    await this.#cgroup?.moved();
  }

  async #moveCgroup(spec: Spec, options: Parameters<typeof makeCgroupFor>[1]): Promise<void> {
    const cgroup = await makeCgroupFor(spec, options);
    if (cgroup === undefined) return;
    this.#cgroup = cgroup;
    for (const { pid } of this.#parts.processes()) cgroup.add(pid);
  }

  async #moveNetwork(spec: Spec, { paths, journal }: HostState, signal: AbortSignal): Promise<GuestNetwork> {
    const { spare, nics } = this.#parts.network;
    if (spare === undefined) throw new Error("A VM that moves has a spare network device");
    const path = namespacePath(spec);
    if (path === undefined) {
      // The namespace that the VM was booted in is the sandbox's.
      spare.onRename(paths.netns);
      this.#netnsPath = paths.netns;
      return noNetwork;
    }
    spare.onRename(paths.netns);
    await spare.moveTo(path, signal);
    journal.add({ kind: "network", netnsPath: path });
    this.#netnsPath = path;
    await this.#forwarder[Symbol.asyncDispose]();
    this.#forwarder = this.#forward();
    const slots = nicSlots(this.#parts.vm);
    const network = await spare.join(slots, signal);
    this.#joinLate = lateNetwork(network === undefined ? spare : undefined, slots, undefined);
    return network === undefined ? noNetwork : overSpare(network, nics[0]?.macAddress ?? "");
  }

  #forward(): AsyncDisposable {
    const { connections, log } = this.#parts;
    return forwardLoopback({ netnsPath: this.#netnsPath, connections, log });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#forwarder[Symbol.asyncDispose]();
    // What it makes is to be removed next.
    await this.#placing.catch(() => {});
  }
}
