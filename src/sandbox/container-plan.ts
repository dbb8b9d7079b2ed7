import type { GuestContainerRequest } from "../agent-client/agent-types.ts";
import { type BlockDevice, blockDevices, hasAllDevices, vfioGroups } from "../agent-client/guest-devices.ts";
import {
  type BindSource,
  bindSources,
  isSharedMemory,
  type SharedBind,
} from "../agent-client/guest-mounts.ts";
import { sharedNamespaces } from "../agent-client/guest-namespaces.ts";
import { guestSpec, refuseUnsupported } from "../agent-client/guest-spec.ts";
import { sharedSysctls } from "../agent-client/guest-sysctls.ts";
import { rootDiskId, withRootDisk } from "../agent-client/root-disk.ts";
import { withIdleInit } from "../agent-client/idle-init.ts";
import type { Spec, SpecMount } from "../oci/spec.ts";
import type { SharedMemory } from "./shared-memory.ts";

/** What a container needs, read from its specification before anything is made. */
export interface ContainerPlan {
  /** Shared by the host. */
  readonly binds: readonly BindSource[];
  readonly blockDevices: readonly BlockDevice[];
  /** IOMMU groups of the host. */
  readonly vfioGroups: readonly number[];
  /** Image of its root, a disk of the VM. */
  readonly rootImage: string | undefined;
  /** For the agent. `shared` are the `binds` in the share. */
  guest(
    shared: readonly SharedBind[],
  ): Pick<
    GuestContainerRequest,
    "ociConfigJson" | "storages" | "sharedNamespaces" | "allDevices" | "volumes" | "rootDisk" | "sysctls"
  >;
}

export interface PlanOptions {
  readonly containerId: string;
  readonly terminal: boolean;
  readonly rootImage?: string | undefined;
  /** Its init waits for its end instead of running a program. */
  readonly isIdle: boolean;
  /** Of the processes that stand for the sandbox, none while there is none. */
  readonly sandboxPids: readonly number[];
  readonly memory: SharedMemory;
  /** Binds of the pod, for containers that have nothing at their destinations. */
  readonly podMounts: readonly SpecMount[];
}

/** @throws invalid_argument, failed_precondition, unimplemented  something that a guest cannot have */
export async function planContainer(spec: Spec, options: PlanOptions): Promise<ContainerPlan> {
  refuseUnsupported(spec);
  const sharedTypes = sharedNamespaces(spec, options.sandboxPids);
  const { places, storages, added } = await options.memory.placesFor(spec, sharedTypes.includes("ipc"));
  const taken = new Set(spec.mounts?.map(({ destination }) => destination));
  const missing = options.podMounts.filter(({ destination }) => !taken.has(destination));
  const kept = spec.mounts?.filter((mount) => added.length === 0 || !isSharedMemory(mount)) ?? [];
  const whole = { ...spec, mounts: [...kept, ...added, ...missing] };
  const { containerId, terminal, isIdle, rootImage } = options;
  return {
    rootImage,
    binds: bindSources(whole, places),
    blockDevices: blockDevices(spec),
    vfioGroups: vfioGroups(spec),
    guest: (shared) => {
      const sources = { places, shared };
      const translated = guestSpec(whole, { containerId, terminal, sources, sharedNamespaces: sharedTypes });
      const rooted = rootImage === undefined ? translated : withRootDisk(translated, containerId);
      return {
        ociConfigJson: Buffer.from(JSON.stringify(isIdle ? withIdleInit(rooted) : rooted)),
        rootDisk: rootImage === undefined ? "" : rootDiskId,
        storages,
        sharedNamespaces: sharedTypes,
        allDevices: hasAllDevices(spec),
        volumes: shared.map(({ path }) => path),
        sysctls: sharedSysctls(spec),
      };
    },
  };
}
