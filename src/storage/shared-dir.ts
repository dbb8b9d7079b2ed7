import { constants } from "node:fs";
import { mkdir, open, readdir, realpath, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { ignore, removeDirectory, removeFile, systemErrorCode } from "../base/files.ts";
import { bindMount, bindReadOnlyShared, cloneMount, unmount, unmountAllBelow } from "./mount.ts";

/**
 * The directory that one sandbox's guest sees through virtio-fs (tag "caisson").
 *
 *   <directory>/skeleton/<container>/rootfs      the mount points, made and removed by the host
 *   <directory>/skeleton/<container>/mounts/<n>  a directory or a file for each bind source
 *   <directory>/shared/                          the skeleton, bound read-only; the mounts are made on it. It is a
 *                                                shared mount, so that mounts made later reach virtiofsd
 *   <directory>/staging-<container>              where a mount gets its flags before the guest can see it
 *
 * The guest can write into the mounts only. Could it write between them, it would choose with a symbolic link or a
 * rename where on the host the next mount is made, and what its removal deletes. The host never walks into the mounts.
 */
export interface SharedDir {
  readonly path: string;
  /** Adds a container's root file system; returns its path in the guest's view, relative to the share. */
  addRootfs(containerId: string, source: string, readOnly: boolean): Promise<string>;
  /** Adds a bind source (directory or regular file). */
  addMount(containerId: string, index: number, source: string, readOnly: boolean): Promise<string>;
  /** Removes what was added for a container. Idempotent. */
  removeContainer(containerId: string): Promise<void>;
}

/** Name of the share's virtio-fs tag. */
export const shareTag = "caisson";

const sharedDirectoryName = "shared";
const skeletonName = "skeleton";
export const stagingName = "staging";

/** Makes the shared directory of a sandbox in `directory`, which `removeSharedDir` undoes. */
export async function createSharedDir(directory: string): Promise<SharedDir> {
  const path = join(directory, sharedDirectoryName);
  const skeleton = join(directory, skeletonName);
  await mkdir(path, { mode: 0o700 });
  await mkdir(skeleton, { mode: 0o700 });
  await bindReadOnlyShared(skeleton, path);
  const add = async (containerId: string, name: string, source: string, readOnly: boolean) => {
    const relativePath = join(containerId, name);
    const staging = join(directory, `${stagingName}-${containerId}`);
    const isDirectory = await kindOf(source);
    await refuseOwnState(source, directory);
    await makeTarget(join(skeleton, relativePath), isDirectory);
    await makeTarget(staging, isDirectory);
    try {
      // Read-only is a property of the mount that virtiofsd serves, so the guest cannot lift it. Flags and propagation are
      // set on a staging mount and cloned with it: a later change of them does not reach virtiofsd's namespace.
      await bindMount(source, staging, { recursive: true, readOnly });
      await removeOwnMounts(source, staging, directory);
      await cloneMount(staging, join(path, relativePath));
    } finally {
      await unmount(staging);
      await (isDirectory ? removeDirectory(staging) : removeFile(staging));
    }
    return relativePath;
  };
  return {
    path,
    addRootfs: (containerId, source, readOnly) => add(containerId, "rootfs", source, readOnly),
    addMount: (containerId, index, source, readOnly) => add(containerId, `mounts/${index}`, source, readOnly),
    removeContainer: (containerId) => removeContainerShare(directory, containerId),
  };
}

/** Unmounts and removes the shared directory from its place alone. Idempotent. */
export async function removeSharedDir(directory: string, containerIds: readonly string[]): Promise<void> {
  const path = join(directory, sharedDirectoryName);
  for (const containerId of containerIds) await removeContainerShare(directory, containerId);
  await unmountAllBelow(path);
  await removeDirectory(path);
  await removeDirectory(join(directory, skeletonName));
}

async function kindOf(source: string): Promise<boolean> {
  const status = await stat(source).catch((cause: unknown) => {
    throw new RuntimeError(systemErrorCode(cause), `Cannot share "${source}" with the guest`, { cause });
  });
  if (status.isDirectory()) return true;
  if (status.isFile()) return false;
  throw new RuntimeError(
    "invalid_argument",
    `Cannot share "${source}" with the guest: expected a directory or a regular file, sockets, FIFOs and devices do not cross virtio-fs`,
  );
}

/**
 * Takes our own mounts out of a copy of what holds them (the host's root, say): they would be kept alive by the copy when
 * their sandboxes end.
 */
async function removeOwnMounts(source: string, copy: string, directory: string): Promise<void> {
  // <state directory>/<namespace>/<sandbox id>
  const state = dirname(dirname(await realpath(directory)));
  const below = relative(await realpath(source), state);
  if (below === ".." || below.startsWith("../")) return;
  await unmountAllBelow(join(copy, below));
}

async function refuseOwnState(source: string, directory: string): Promise<void> {
  const [real, own] = await Promise.all([realpath(source), realpath(directory)]);
  if (!`${real}/`.startsWith(`${own}/`)) return;
  throw new RuntimeError(
    "invalid_argument",
    `Cannot share "${source}" with the guest: it lies in the sandbox's own state, "${own}"`,
  );
}

async function makeTarget(path: string, isDirectory: boolean): Promise<void> {
  await mkdir(isDirectory ? path : join(path, ".."), { recursive: true, mode: 0o700 });
  if (!isDirectory) {
    const file = await open(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600);
    await file.close();
  }
}

async function removeContainerShare(directory: string, containerId: string): Promise<void> {
  await unmountAllBelow(join(directory, sharedDirectoryName, containerId));
  const mountPoints = join(directory, skeletonName, containerId);
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
