import { constants } from "node:fs";
import { mkdir, open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { ignore, removeDirectory, removeFile, systemErrorCode } from "../base/files.ts";
import { bindMount, makeShared, unmount, unmountAllBelow } from "./mount.ts";

/**
 * The directory that one sandbox's guest sees through virtio-fs (tag "caisson").
 *
 *   <directory>/shared/                 a mount of its own, shared, so that mounts made later reach virtiofsd
 *   <directory>/shared/<container>/rootfs
 *   <directory>/shared/<container>/mounts/<n>   bind sources, a directory or a file each
 *   <directory>/staging                 where a read-only bind gets its flag before the guest can see it
 *
 * The host makes everything below `shared` before the guest can touch it and never walks the guest's part of it.
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

export const sharedDirectoryName = "shared";
export const stagingName = "staging";

/** Makes the shared directory of a sandbox in `directory`, which `removeSharedDir` undoes. */
export async function createSharedDir(directory: string): Promise<SharedDir> {
  const path = join(directory, sharedDirectoryName);
  await mkdir(path, { mode: 0o700 });
  await makeShared(path);
  const add = async (containerId: string, name: string, source: string, readOnly: boolean) => {
    const relative = join(containerId, name);
    await expose(source, join(path, relative), readOnly, join(directory, `${stagingName}-${containerId}`));
    return relative;
  };
  return {
    path,
    addRootfs: (containerId, source, readOnly) => add(containerId, "rootfs", source, readOnly),
    addMount: (containerId, index, source, readOnly) => add(containerId, `mounts/${index}`, source, readOnly),
    removeContainer: (containerId) => removeContainerShare(path, containerId),
  };
}

/** Unmounts and removes the shared directory from its place alone. Idempotent. */
export async function removeSharedDir(directory: string, containerIds: readonly string[]): Promise<void> {
  const path = join(directory, sharedDirectoryName);
  for (const containerId of containerIds) await removeContainerShare(path, containerId);
  await unmountAllBelow(path);
  await removeDirectory(path);
}

/**
 * Binds `source` at `target`. Read-only is a property of the mount that virtiofsd serves, so the guest cannot lift it;
 * because a later change of a mount's flags does not reach virtiofsd's namespace, the flag is set on a staging mount
 * first and cloned with it.
 */
async function expose(source: string, target: string, readOnly: boolean, staging: string): Promise<void> {
  const isDirectory = await kindOf(source);
  await makeTarget(target, isDirectory);
  if (!readOnly) return bindMount(source, target, { recursive: true });
  await makeTarget(staging, isDirectory);
  try {
    await bindMount(source, staging, { recursive: true, readOnly: true });
    await bindMount(staging, target, { recursive: true });
  } finally {
    await unmount(staging);
    await (isDirectory ? removeDirectory(staging) : removeFile(staging));
  }
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

async function makeTarget(path: string, isDirectory: boolean): Promise<void> {
  await mkdir(isDirectory ? path : join(path, ".."), { recursive: true, mode: 0o700 });
  if (!isDirectory) {
    const file = await open(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600);
    await file.close();
  }
}

async function removeContainerShare(sharedPath: string, containerId: string): Promise<void> {
  const directory = join(sharedPath, containerId);
  await unmountAllBelow(directory);
  await removeDirectory(join(directory, "rootfs"));
  await removeMountTargets(join(directory, "mounts"));
  await removeDirectory(directory);
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
