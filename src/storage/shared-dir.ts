import { constants } from "node:fs";
import { mkdir, open, readdir, realpath } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { ignore, removeDirectory, removeFile } from "../base/files.ts";
import { bindReadOnlyShared, unmount, unmountAllBelow } from "./mount.ts";
import { attachCopy, type MountSource, openMountSource, type TreeOptions } from "./mount-tree.ts";

/**
 * The directory that one sandbox's guest sees through virtio-fs (tag "caisson"), below the sandbox's own.
 *
 *   share/                             nobody but root gets through: what is below is open for every user, because it has to be in
 *                                      the guest, for root of a user namespace
 *   share/skeleton/<container>/rootfs      the mount points, made and removed by the host
 *   share/skeleton/<container>/mounts/<n>  a directory or a file for each bind source
 *   share/root/                        the skeleton, bound read-only; the mounts are made on it. It is a shared mount, so that
 *                                      mounts made later reach virtiofsd
 *   share/staging-<container>          where a copy that holds mounts of ours loses them before the guest can see it
 *
 * The guest can write into the mounts only. Could it write between them, it would choose with a symbolic link or a
 * rename where on the host the next mount is made, and what its removal deletes. The host never walks into the mounts.
 */
export interface SharedDir {
  readonly path: string;
  /** Adds a container's root file system; returns its path in the guest's view, relative to the share. */
  addRootfs(containerId: string, source: string, readOnly: boolean): Promise<string>;
  /** Adds a bind source (directory or regular file). Read-only is enforced here: the guest cannot lift it. */
  addMount(containerId: string, index: number, source: string, options: BindOptions): Promise<string>;
  /** Removes what was added for a container. Idempotent. */
  removeContainer(containerId: string): Promise<void>;
}

/** Name of the share's virtio-fs tag. */
export const shareTag = "caisson";

const shareName = "share";
const rootName = "root";
const skeletonName = "skeleton";
const stagingName = "staging";
/** Users may pass through to what they know, but not look or write. */
const passMode = 0o711;

/** How a bind source is shown; as in `TreeOptions`. */
export type BindOptions = Pick<TreeOptions, "recursive" | "readOnly" | "idMap"> & {
  readonly propagation: "private" | "slave";
};

/** Makes the shared directory of a sandbox in `directory`, which `removeSharedDir` undoes. */
export async function createSharedDir(directory: string): Promise<SharedDir> {
  const share = join(directory, shareName);
  const path = join(share, rootName);
  const skeleton = join(share, skeletonName);
  await mkdir(share, { mode: 0o700 });
  await mkdir(path, { mode: 0o700 });
  await mkdir(skeleton, { mode: passMode });
  await bindReadOnlyShared(skeleton, path);
  const own = await realpath(directory);
  const add = async (containerId: string, name: string, source: string, options: BindOptions) => {
    const relativePath = join(containerId, name);
    await using from = await openMountSource(source);
    checkKind(from, source);
    refuseOwnState(from, source, own);
    await makeTarget(join(skeleton, relativePath), from.isDirectory);
    const staging = join(share, `${stagingName}-${containerId}`);
    const tree = { ...options, noSuidAndDev: true };
    if (options.recursive && holdsOwnMounts(from, own)) {
      await attachWithoutOwnMounts(from, { staging, own, target: join(path, relativePath) }, tree);
    } else {
      attachCopy(from, join(path, relativePath), tree);
    }
    return relativePath;
  };
  return {
    path,
    addRootfs: (containerId, source, readOnly) =>
      add(containerId, "rootfs", source, {
        recursive: true,
        readOnly: readOnly ? "all" : "none",
        propagation: "private",
      }),
    addMount: (containerId, index, source, options) => add(containerId, `mounts/${index}`, source, options),
    removeContainer: (containerId) => removeContainerShare(share, containerId),
  };
}

/** Unmounts and removes the shared directory from its place alone. Idempotent. */
export async function removeSharedDir(directory: string, containerIds: readonly string[]): Promise<void> {
  const share = join(directory, shareName);
  await removeStaging(share);
  const path = join(share, rootName);
  for (const containerId of containerIds) await removeContainerShare(share, containerId);
  unmountAllBelow(path);
  await removeDirectory(path);
  await removeDirectory(join(share, skeletonName));
  await removeDirectory(share);
}

async function removeStaging(share: string): Promise<void> {
  const names = (await readdir(share).catch(ignore("ENOENT"))) ?? [];
  for (const name of names.filter((entry) => entry.startsWith(stagingName))) {
    unmountAllBelow(join(share, name));
    await removeDirectory(join(share, name));
  }
}

function checkKind({ isDirectory, isFile }: MountSource, source: string): void {
  if (isDirectory || isFile) return;
  throw new RuntimeError(
    "invalid_argument",
    `Cannot share "${source}" with the guest: expected a directory or a regular file, sockets, FIFOs and devices do not cross virtio-fs`,
  );
}

/** Whether the source is above the state of all sandboxes, `<state directory>/<namespace>/<sandbox id>`. */
function holdsOwnMounts({ realPath }: MountSource, own: string): boolean {
  return `${dirname(dirname(own))}/`.startsWith(realPath === "/" ? "/" : `${realPath}/`);
}

/**
 * Takes our own mounts out of a copy of what holds them (the host's root, say): they would be kept alive by the copy when
 * their sandboxes end.
 */
async function attachWithoutOwnMounts(
  source: MountSource,
  { staging, own, target }: { readonly staging: string; readonly own: string; readonly target: string },
  options: TreeOptions,
): Promise<void> {
  await mkdir(staging, { mode: 0o700 });
  try {
    attachCopy(source, staging, { ...options, readOnly: "none", idMap: undefined });
    unmountAllBelow(join(staging, relative(source.realPath, dirname(dirname(own)))));
    await using cleaned = await openMountSource(staging);
    attachCopy(cleaned, target, options);
  } finally {
    unmount(staging);
    await removeDirectory(staging);
  }
}

function refuseOwnState({ realPath }: MountSource, source: string, own: string): void {
  if (!`${realPath}/`.startsWith(`${own}/`)) return;
  throw new RuntimeError(
    "invalid_argument",
    `Cannot share "${source}" with the guest: it lies in the sandbox's own state, "${own}"`,
  );
}

async function makeTarget(path: string, isDirectory: boolean): Promise<void> {
  await mkdir(isDirectory ? path : join(path, ".."), { recursive: true, mode: passMode });
  if (!isDirectory) {
    const file = await open(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600);
    await file.close();
  }
}

async function removeContainerShare(share: string, containerId: string): Promise<void> {
  unmountAllBelow(join(share, rootName, containerId));
  const mountPoints = join(share, skeletonName, containerId);
  await removeDirectory(join(mountPoints, "rootfs"));
  await removeMountTargets(join(mountPoints, "mounts"));
  await removeDirectory(mountPoints);
}

/** The targets are numbered from 0 without gaps; each is an empty directory or an empty file once unmounted. */
async function removeMountTargets(directory: string): Promise<void> {
  const names = (await readdir(directory).catch(ignore("ENOENT"))) ?? [];
  for (const name of names) {
    const path = join(directory, name);
    await removeDirectory(path).catch((error: unknown) => {
      ignore("ENOTDIR")(error);
      return removeFile(path);
    });
  }
  await removeDirectory(directory);
}
