import { stat, statfs } from "node:fs/promises";
import type { GuestStorage } from "../agent-client/agent-types.ts";
import { isSharedMemory, sharedMemoryBind } from "../agent-client/guest-mounts.ts";
import type { Spec, SpecMount } from "../oci/spec.ts";

// TMPFS_MAGIC of <linux/magic.h>.
const tmpfsMagic = 0x0102_1994;
/** What containerd, Docker and Podman give a container that asks for nothing else. */
const defaultSizeBytes = 64 * 1024 ** 2;
const directory = "/run/caisson/memory";

export interface MemoryPlaces {
  /** Mounts of the spec that have a place in the guest. */
  readonly places: ReadonlyMap<SpecMount, string>;
  /** The places, to be mounted. */
  readonly storages: readonly GuestStorage[];
  /** A mount at /dev/shm, in the place of those that the spec has there. */
  readonly added: readonly SpecMount[];
}

/**
 * The shared memory of a sandbox's containers, by its place on the host: a bind of a tmpfs at /dev/shm. In a VM it has to
 * be a tmpfs of the guest, where mappings and semaphores work as memory, and count as memory of the containers that use it.
 */
export class SharedMemory {
  readonly #storages = new Map<string, GuestStorage>();

  /**
   * @param joinsIpc  The container shares the IPC namespace of its sandbox: then it has the sandbox's shared memory, even
   *                  when nobody on the host made a place for it (the Sandbox API: the mount is containerd's default then)
   */
  async placesFor(spec: Spec, joinsIpc: boolean): Promise<MemoryPlaces> {
    const bind = sharedMemoryBind(spec);
    if (bind?.source !== undefined) {
      const storage = await this.#ofHost(bind.source);
      if (storage === undefined) return none;
      return { places: new Map([[bind, storage.target]]), storages: [storage], added: [] };
    }
    const own = spec.mounts?.filter(isSharedMemory) ?? [];
    if (!joinsIpc || !own.every(isDefault)) return none;
    const size = own.at(-1)?.options?.find((option) => option.startsWith("size="));
    const storage = this.#add("", [size ?? `size=${defaultSizeBytes}`, "mode=1777"]);
    const mount = { destination: "/dev/shm", type: "bind", source: "", options: ["rbind"] };
    return { places: new Map([[mount, storage.target]]), storages: [storage], added: [mount] };
  }

  /** The VM is gone, and the memory with it. */
  clear(): void {
    this.#storages.clear();
  }

  async #ofHost(source: string): Promise<GuestStorage | undefined> {
    const known = this.#storages.get(source);
    if (known !== undefined) return known;
    // What is missing is refused where the binds are shared.
    const [fileSystem, status] = await Promise.all([
      statfs(source).catch(() => undefined),
      stat(source).catch(() => undefined),
    ]);
    if (fileSystem?.type !== tmpfsMagic || !status?.isDirectory()) return undefined;
    const { uid, gid } = status;
    const mode = (status.mode & 0o7777).toString(8);
    const sizeBytes = fileSystem.blocks * fileSystem.bsize;
    // No size is no limit, as on the host.
    const options = [
      ...(sizeBytes > 0 ? [`size=${sizeBytes}`] : ["size=0"]),
      `mode=${mode}`,
      `uid=${uid}`,
      `gid=${gid}`,
    ];
    return this.#add(source, options);
  }

  #add(key: string, options: readonly string[]): GuestStorage {
    const known = this.#storages.get(key);
    if (known !== undefined) return known;
    const target = `${directory}/${this.#storages.size}`;
    const storage: GuestStorage = { type: "tmpfs", source: "", target, options: [...flags, ...options] };
    this.#storages.set(key, storage);
    return storage;
  }
}

/** As containerd writes it for every container, unless it has a place on the host to bind. */
function isDefault({ type, source }: SpecMount): boolean {
  return type === "tmpfs" && source === "shm";
}

const flags = ["nosuid", "nodev", "noexec"];
const none: MemoryPlaces = { places: new Map(), storages: [], added: [] };
