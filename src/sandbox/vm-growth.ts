import type { Agent } from "../agent-client/agent.ts";
import { Mutex } from "../base/mutex.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import type { Growth } from "../hypervisor/vm-config.ts";
import type { ContainerLimits } from "./container-limits.ts";
import type { VmSize } from "./sizing.ts";

export interface VmGrowthParts {
  readonly vm: Pick<RunningVm, "resize">;
  readonly agent: Pick<Agent, "onlineProcessors">;
  /** That it was booted with. */
  readonly size: VmSize;
  /** Undefined: it keeps that size. */
  readonly growth: Growth | undefined;
  /** For the guest beside its containers. */
  readonly memoryOverheadMiB: number;
}

/** The size of a VM, which grows with the limits of its containers as far as it can, and never shrinks. */
export class VmGrowth {
  readonly #parts: VmGrowthParts;
  readonly #limits = new Map<string, ContainerLimits>();
  readonly #changes = new Mutex();
  #size: VmSize;

  constructor(parts: VmGrowthParts) {
    this.#parts = parts;
    this.#size = parts.size;
  }

  get size(): VmSize {
    return this.#size;
  }

  /** What the VM can be at most. */
  get most(): VmSize {
    const { growth } = this.#parts;
    return growth === undefined ? this.#size : { vcpus: growth.maxVcpus, memoryMiB: growth.maxMemoryMiB };
  }

  /** Takes a container with the limits that it was made with into account; the VM was made for them. */
  add(containerId: string, limits: ContainerLimits): void {
    this.#limits.set(containerId, limits);
  }

  remove(containerId: string): void {
    this.#limits.delete(containerId);
  }

  /**
   * Grows the VM to what its containers may take together when one of them gets new limits; those that are not said stay. It
   * grows to its most when they may take more.
   *
   * @throws resource_exhausted, deadline_exceeded, unavailable  the guest does not take what it is given
   */
  change(containerId: string, changed: ContainerLimits): Promise<void> {
    return this.#changes.run(async () => {
      const limits = { ...this.#limits.get(containerId), ...changed };
      await this.#growTo(this.#wanted(new Map(this.#limits).set(containerId, limits)));
      this.#limits.set(containerId, limits);
    });
  }

  #wanted(limits: ReadonlyMap<string, ContainerLimits>): VmSize {
    const sum = (pick: (limits: ContainerLimits) => number | undefined) =>
      [...limits.values()].reduce((total, one) => total + (pick(one) ?? 0), 0);
    const memoryMiB =
      Math.ceil(sum(({ memoryBytes }) => memoryBytes) / 1024 ** 2) + this.#parts.memoryOverheadMiB;
    const vcpus = Math.ceil(sum(({ cpus }) => cpus));
    const { most } = this;
    return {
      vcpus: Math.max(this.#size.vcpus, Math.min(vcpus, most.vcpus)),
      memoryMiB: Math.max(this.#size.memoryMiB, Math.min(memoryMiB, most.memoryMiB)),
    };
  }

  async #growTo(wanted: VmSize): Promise<void> {
    const { vm, agent } = this.#parts;
    const { vcpus, memoryMiB } = this.#size;
    if (wanted.vcpus <= vcpus && wanted.memoryMiB <= memoryMiB) return;
    await vm.resize(wanted);
    this.#size = { vcpus, memoryMiB: wanted.memoryMiB };
    if (wanted.vcpus > vcpus) await agent.onlineProcessors(wanted.vcpus);
    this.#size = wanted;
  }
}
