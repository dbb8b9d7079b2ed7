import { closeSync, constants } from "node:fs";
import { type FileHandle, open, readlink } from "node:fs/promises";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import { loadNative, type MountAttributes } from "../base/native.ts";

// O_PATH of <fcntl.h>: a handle of the file without opening it, so that no device, FIFO or lease notices.
const openPath = 0o10000000;

/** A file or directory that is held, so that what is mounted is what was looked at, whoever changes the path meanwhile. */
export interface MountSource extends AsyncDisposable {
  readonly fd: number;
  /** Without symbolic links, as it was when it was opened. */
  readonly realPath: string;
  /** Its device and inode number. */
  readonly identity: string;
  readonly isDirectory: boolean;
  readonly isFile: boolean;
}

/** Opens what is to be bound; symbolic links are followed. @throws not_found, permission_denied */
export async function openMountSource(path: string): Promise<MountSource> {
  let handle: FileHandle;
  try {
    handle = await open(path, openPath | constants.O_NONBLOCK);
  } catch (cause) {
    throw new RuntimeError(systemErrorCode(cause), `Cannot bind "${path}"`, { cause });
  }
  try {
    const status = await handle.stat({ bigint: true });
    return {
      fd: handle.fd,
      realPath: await readlink(`/proc/self/fd/${handle.fd}`),
      identity: `${status.dev}:${status.ino}`,
      isDirectory: status.isDirectory(),
      isFile: status.isFile(),
      [Symbol.asyncDispose]: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Maps of user_namespaces(7): lines of "id on disk, id that is seen, count". */
export interface IdMap {
  readonly uids: string;
  readonly gids: string;
}

/** How a copy of a mount differs from the mount. */
export interface TreeOptions {
  /** The mounts below it are part of it. */
  readonly recursive: boolean;
  /** Which of its mounts are read-only whatever the original is: the topmost, or those below it too. */
  readonly readOnly: "none" | "top" | "all";
  /** Nothing in it can be executed with more rights, no device node opened, on this machine. */
  readonly noSuidAndDev: boolean;
  /**
   * Never a peer of the original: its unmounting would also unmount what is mounted below the original
   * (mount_namespaces(7)). "slave": mounts that are made and removed below the original later follow.
   */
  readonly propagation: "private" | "slave";
  readonly idMap?: (IdMap & { readonly recursive: boolean }) | undefined;
}

/** A copy of a mount tree. Disposing it before it is attached gives it up. */
export interface MountTree extends Disposable {
  /** Attaches it on `target` in our mount namespace, or in the one with the descriptor, from whose root the path is then. */
  attach(target: string, namespace?: number): void;
}

/** Copies the mount tree at `source`. */
export function copyTree(source: MountSource, options: TreeOptions): MountTree {
  const native = loadNative();
  const what = `Cannot bind "${source.realPath}"`;
  let tree = -1;
  try {
    tree = native.cloneTree({ fd: source.fd, recursive: options.recursive });
    // Flags are set before anybody can see the copy.
    for (const change of planAttributes(options)) native.setMountAttributes(tree, change);
    if (options.idMap !== undefined) mapIds(tree, options.idMap, what);
  } catch (cause) {
    if (tree !== -1) closeSync(tree);
    if (cause instanceof RuntimeError) throw cause;
    throw new RuntimeError(systemErrorCode(cause), what, { cause });
  }
  return {
    attach(target, namespace) {
      try {
        native.moveMount(tree, target, namespace);
      } catch (cause) {
        throw new RuntimeError(systemErrorCode(cause), `${what} on "${target}"`, { cause });
      }
    },
    [Symbol.dispose]: () => closeSync(tree),
  };
}

/** A file system in memory, of at most 4 MiB, that is mounted nowhere. @param fill  makes what is in it, below the path that it is given */
export function makeScratchTree(fill: (path: string) => void): MountTree {
  const native = loadNative();
  const tree = native.openScratch();
  try {
    fill(`/proc/self/fd/${tree}`);
  } catch (error) {
    closeSync(tree);
    throw error;
  }
  return {
    attach: (target, namespace) => native.moveMount(tree, target, namespace),
    [Symbol.dispose]: () => closeSync(tree),
  };
}

/** Attaches a copy of the mount tree at `source` on `target`, a file or directory as the source is. */
export function attachCopy(source: MountSource, target: string, options: TreeOptions): void {
  using tree = copyTree(source, options);
  tree.attach(target);
}

function planAttributes({ recursive, readOnly, noSuidAndDev, propagation }: TreeOptions): MountAttributes[] {
  return [
    { recursive, readOnly: readOnly === "all", noSuidAndDev, propagation },
    ...(readOnly === "top" ? [{ recursive: false, readOnly: true }] : []),
  ];
}

function mapIds(tree: number, idMap: IdMap & { readonly recursive: boolean }, what: string): void {
  const native = loadNative();
  let userNamespace = -1;
  try {
    userNamespace = native.createUserNamespace(idMap.uids, idMap.gids);
    native.setMountAttributes(tree, { recursive: idMap.recursive, idMap: userNamespace });
  } catch (cause) {
    const isUnable = errnoOf(cause) === "EINVAL";
    throw new RuntimeError(
      isUnable ? "failed_precondition" : systemErrorCode(cause),
      `${what} with mapped ids${isUnable ? ": its file system or this kernel cannot map them" : ""}`,
      { cause },
    );
  } finally {
    if (userNamespace !== -1) closeSync(userNamespace);
  }
}
