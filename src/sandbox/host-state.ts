import { mkdir, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import { identify } from "../base/processes.ts";
import type { Config } from "../config/config.ts";
import { createSharedDir, openSharedDir, type SharedDir } from "../storage/shared-dir.ts";
import { Journal } from "./journal.ts";
import { type SandboxPaths, sandboxPaths } from "./paths.ts";
import { ownerName, removeSandbox } from "./remove.ts";
import { takeUserId } from "./user-ids.ts";

/** What a sandbox has on the host before its VM boots. `removeSandbox` releases all of it. */
export interface HostState {
  readonly paths: SandboxPaths;
  readonly journal: Journal;
  /** Unprivileged user of the VMM. */
  readonly uid: number;
  readonly shared: SharedDir;
}

/**
 * Makes the sandbox's directory, journal, user id and shared directory. Whatever an earlier sandbox of this name left
 * (its daemon is dead, or we could not have its socket) is removed first. On failure nothing is left.
 */
export async function createHostState(
  namespace: string,
  sandboxId: string,
  config: Config,
): Promise<HostState> {
  const { stateDirectory } = config;
  const paths = sandboxPaths(stateDirectory, namespace, sandboxId);
  const name = { stateDirectory, namespace, sandboxId };
  try {
    await makeDirectory(paths.directory, () => removeSandbox(name));
    const journal = new Journal(paths.directory);
    try {
      const self = identify(process.pid);
      if (self !== undefined) journal.add({ kind: "daemon", identity: self });
      const owner = ownerName(namespace, sandboxId);
      const uid = takeUserId(
        { stateDirectory, base: config.vmmUidBase, count: config.vmmUidCount },
        owner,
        // Named, because the sandbox may be renamed.
        (candidate) => journal.add({ kind: "user", uid: candidate, owner }),
      );
      const shared = await createSharedDir(paths.directory);
      return { paths, journal, uid, shared };
    } catch (error) {
      journal[Symbol.dispose]();
      throw error;
    }
  } catch (cause) {
    await removeSandbox(name);
    if (cause instanceof RuntimeError) throw cause;
    throw new RuntimeError(systemErrorCode(cause), `Cannot keep state in "${paths.directory}"`, { cause });
  }
}

/**
 * Gives what a sandbox has on the host, which has no container yet, to one of another name. The journal moves with it, so that
 * `removeSandbox` finds everything by one of the names at any moment. The shared directory is to be served anew.
 */
export async function renameHostState(
  host: HostState,
  { namespace, sandboxId, config }: { namespace: string; sandboxId: string; config: Config },
): Promise<HostState> {
  const { stateDirectory } = config;
  const paths = sandboxPaths(stateDirectory, namespace, sandboxId);
  await makeDirectory(paths.directory, () => removeSandbox({ stateDirectory, namespace, sandboxId }));
  try {
    await rename(host.paths.directory, paths.directory);
  } catch (cause) {
    await removeSandbox({ stateDirectory, namespace, sandboxId });
    throw new RuntimeError(systemErrorCode(cause), `Cannot keep state in "${paths.directory}"`, { cause });
  }
  host.shared[Symbol.dispose]();
  return { ...host, paths, shared: openSharedDir(paths.directory) };
}

/** How often the directory of the namespace may go away under us, or somebody else's of our name come. */
const makeAttempts = 8;

async function makeDirectory(path: string, removeStale: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      // Others may pass through, to reach the one directory in it that is theirs, but not look.
      await mkdir(dirname(path), { recursive: true, mode: 0o711 });
      await mkdir(path, { mode: 0o711 });
      return;
    } catch (cause) {
      const errno = errnoOf(cause);
      if (attempt === makeAttempts || (errno !== "EEXIST" && errno !== "ENOENT")) {
        throw new RuntimeError(systemErrorCode(cause), `Cannot make the state directory "${path}"`, {
          cause,
        });
      }
      // ENOENT: the last sandbox of the namespace took the directory of the namespace along.
      if (errno === "EEXIST") await removeStale();
    }
  }
}
