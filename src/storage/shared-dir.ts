import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { removeDirectory } from "../base/files.ts";
import { bindReadOnly, unmountAllBelow } from "./mount.ts";
import { copyTree, makeScratchTree, openMountSource } from "./mount-tree.ts";
import { ShareMounts } from "./share-mounts.ts";
import {
  type BindOptions,
  removeVolumeTargets,
  type SharedVolume,
  SharedVolumes,
  type VolumePlaces,
} from "./shared-volumes.ts";

/**
 * The directory that one sandbox's guest sees through virtio-fs (tag "caisson"), below the sandbox's own.
 *
 *   share/                             nobody but root gets through: what is below is open for every user, because it has to be in
 *                                      the guest, for root of a user namespace
 *   share/skeleton/<container>/rootfs  the mount points, made and removed by the host
 *   share/skeleton/.volumes/<n>        a directory or a file for each bind source
 *   share/root/                        the skeleton, bound read-only: what is served. The mounts are made on it in the server's
 *                                      mount namespace only
 *   share/staging-<n>                  where a copy that holds mounts of ours loses them before the guest can see it
 *
 * The guest can write into the mounts only. Could it write between them, it would choose with a symbolic link or a
 * rename where on the host the next mount is made, and what its removal deletes. The host never walks into the mounts.
 */
export interface SharedDir extends Disposable {
  readonly path: string;
  /**
   * Says which process serves it and has it as its root. What is added before waits for this.
   *
   * @throws internal  it has another root
   */
  serve(pid: number): void;
  /** It will not be served: what is added, or has waited, fails with the reason. */
  abandon(reason: unknown): void;
  /** Adds a container's root file system; returns its path in the guest's view, relative to the share. */
  addRootfs(containerId: string, source: string, readOnly: boolean): Promise<string>;
  /** Adds a root file system in memory, which goes with its removal, likewise. @param fill  makes what is in it, below that path */
  addScratchRootfs(containerId: string, fill: (path: string) => void): Promise<string>;
  /** Adds a bind source (directory or regular file), likewise. Read-only is enforced here: the guest cannot lift it. */
  addMount(containerId: string, source: string, options: BindOptions): Promise<SharedVolume>;
  /** Removes what was added for a container and no other uses. Idempotent. */
  removeContainer(containerId: string): Promise<void>;
}

/** Name of the share's virtio-fs tag. */
export const shareTag = "caisson";

/** Users may pass through to what they know, but not look or write. */
const passMode = 0o711;

/** Makes the shared directory of a sandbox in `directory`, which `removeSharedDir` undoes. */
export async function createSharedDir(directory: string): Promise<SharedDir> {
  const places = placesIn(directory);
  const { root, skeleton } = places;
  for (const path of [places.private, root]) await mkdir(path, { mode: 0o700 });
  await mkdir(skeleton, { mode: passMode });
  await bindReadOnly(skeleton, root);
  return openSharedDir(directory);
}

/**
 * One that `createSharedDir` has made in this directory, or in one that was renamed to it, that nothing was added to. It is not
 * served yet.
 */
export function openSharedDir(directory: string): SharedDir {
  const places = placesIn(directory);
  const { root, skeleton } = places;
  const mounts = new ShareMounts(root);
  const volumes = new SharedVolumes(places, mounts);
  const makeRootfsPoint = async (containerId: string) => {
    const relativePath = join(containerId, "rootfs");
    await mkdir(join(skeleton, relativePath), { recursive: true, mode: passMode });
    return relativePath;
  };
  return {
    path: root,
    serve: (pid) => mounts.serve(pid),
    abandon: (reason) => mounts.close(reason),
    addScratchRootfs: async (containerId, fill) => {
      const relativePath = await makeRootfsPoint(containerId);
      using tree = makeScratchTree(fill);
      await mounts.attach(tree, relativePath);
      return relativePath;
    },
    addRootfs: async (containerId, source, readOnly) => {
      await using from = await openMountSource(source);
      if (!from.isDirectory) {
        throw new RuntimeError(
          "invalid_argument",
          `Cannot use "${source}" as a root file system: it is no directory`,
        );
      }
      const relativePath = await makeRootfsPoint(containerId);
      using tree = copyTree(from, {
        recursive: true,
        readOnly: readOnly ? "all" : "none",
        noSuidAndDev: true,
        propagation: "private",
      });
      await mounts.attach(tree, relativePath);
      return relativePath;
    },
    addMount: (containerId, source, options) => volumes.add(containerId, source, options),
    removeContainer: async (containerId) => {
      await volumes.release(containerId);
      mounts.detach(join(containerId, "rootfs"));
      await removeRootfs(places, containerId);
    },
    [Symbol.dispose]: () => mounts[Symbol.dispose](),
  };
}

/** Unmounts and removes the shared directory, whose server has ended, from its place alone. Idempotent. */
export async function removeSharedDir(directory: string, containerIds: readonly string[]): Promise<void> {
  const places = placesIn(directory);
  unmountAllBelow(places.root);
  for (const containerId of containerIds) await removeRootfs(places, containerId);
  await removeVolumeTargets(places);
  await removeDirectory(places.root);
  await removeDirectory(places.skeleton);
  await removeDirectory(places.private);
}

function placesIn(sandbox: string): VolumePlaces {
  const share = join(sandbox, "share");
  return { sandbox, private: share, skeleton: join(share, "skeleton"), root: join(share, "root") };
}

async function removeRootfs({ skeleton }: VolumePlaces, containerId: string): Promise<void> {
  await removeDirectory(join(skeleton, containerId, "rootfs"));
  await removeDirectory(join(skeleton, containerId));
}
