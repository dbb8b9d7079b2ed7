import { stat, statfs, writeFile } from "node:fs/promises";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { removeFile, systemErrorCode } from "../base/files.ts";
import { loadNative } from "../base/native.ts";

// NSFS_MAGIC of <linux/magic.h>: what statfs(2) says of a path that is a namespace.
const nsfsMagic = 0x6e73_6673;
// A path can be covered by more than one bind mount; ours makes one.
const maxStackedMounts = 8;

/**
 * Makes a fresh network namespace that lives as long as the mount at `path`, with its loopback up. The file must not
 * exist yet; its directory must.
 *
 * @throws already_exists, not_found, permission_denied
 */
export async function createNetns(path: string, options: { signal: AbortSignal }): Promise<void> {
  const cannot = (cause: unknown) =>
    new RuntimeError(systemErrorCode(cause), `Cannot create network namespace "${path}"`, { cause });
  await writeFile(path, "", { flag: "wx", mode: 0o600 }).catch((cause: unknown) => {
    throw cannot(cause);
  });
  try {
    options.signal.throwIfAborted();
    makeNetns(path, cannot);
  } catch (error) {
    await removeNetns(path);
    throw error;
  }
}

function makeNetns(path: string, cannot: (cause: unknown) => RuntimeError): void {
  const native = loadNative();
  try {
    native.makeNetns(path);
  } catch (cause) {
    throw cannot(cause);
  }
}

/** Removes a namespace made by `createNetns`; being gone already is success. Never uses a caller's signal. */
export async function removeNetns(path: string): Promise<void> {
  for (let depth = 0; depth < maxStackedMounts && (await isNetns(path)); depth++) {
    detach(path);
  }
  await removeFile(path);
}

/** Also when somebody holds the file open: the namespace has to go from the path all the same. */
function detach(path: string): void {
  try {
    loadNative().detachMount(path);
  } catch (cause) {
    // Gone in the meantime.
    if (["EINVAL", "ENOENT"].includes(errnoOf(cause) ?? "")) return;
    throw new RuntimeError(systemErrorCode(cause), `Cannot unmount network namespace "${path}"`, { cause });
  }
}

/** Whether `path` is a namespace at present (of any kind; only setns(2) tells a network namespace). */
export async function isNetns(path: string): Promise<boolean> {
  try {
    return (await statfs(path)).type === nsfsMagic;
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(errnoOf(error) ?? "")) return false;
    throw new RuntimeError(systemErrorCode(error), `Cannot look at network namespace "${path}"`, {
      cause: error,
    });
  }
}

/** Whether `path` is the network namespace that we are in ourselves. */
export async function isOwnNetns(path: string): Promise<boolean> {
  const [theirs, ours] = await Promise.all([stat(path), stat("/proc/self/ns/net")]);
  return theirs.dev === ours.dev && theirs.ino === ours.ino;
}
