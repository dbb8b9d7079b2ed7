import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { removeFileAndTorn, writeFileAtomic } from "../base/files.ts";
import { identify, type ProcessIdentity } from "../base/processes.ts";

/**
 * What `start` notes about a container and its daemon, so that `delete` finds it by namespace and id alone, when the
 * bundle is gone too.
 */
export interface ShimRecord {
  readonly sandboxId: string;
  readonly socketPath: string;
  readonly daemon: ProcessIdentity;
  /** Whether the daemon can have other sandboxes too. */
  readonly servesMany?: boolean;
}

/** Beside the command line's sockets; `+` cannot stand in an id. */
function recordPath(stateDirectory: string, namespace: string, containerId: string): string {
  return join(stateDirectory, ".shims", `${namespace}+${containerId}.json`);
}

export async function writeRecord(
  stateDirectory: string,
  namespace: string,
  containerId: string,
  record: ShimRecord,
): Promise<void> {
  await writeFileAtomic(recordPath(stateDirectory, namespace, containerId), JSON.stringify(record));
}

/** The record, or undefined when there is none that can be understood. */
export async function readRecord(
  stateDirectory: string,
  namespace: string,
  containerId: string,
): Promise<ShimRecord | undefined> {
  try {
    const text = await readFile(recordPath(stateDirectory, namespace, containerId), "utf8");
    return JSON.parse(text) as ShimRecord;
  } catch {
    // Missing or cut short by a crash: `delete` then goes by what the ids alone tell.
    return undefined;
  }
}

/** Whether other containers are noted with the same daemon. */
export async function isShared(
  stateDirectory: string,
  namespace: string,
  containerId: string,
  record: ShimRecord,
): Promise<boolean> {
  const names = await readdir(join(stateDirectory, ".shims")).catch(() => []);
  const ids = names
    .filter((name) => name.startsWith(`${namespace}+`) && name.endsWith(".json"))
    .map((name) => name.slice(namespace.length + 1, -".json".length));
  for (const id of ids) {
    if (id === containerId) continue;
    const other = await readRecord(stateDirectory, namespace, id);
    if (other?.daemon.pid === record.daemon.pid && other.daemon.startTicks === record.daemon.startTicks) {
      return true;
    }
  }
  return false;
}

/** Removes the record, and what a daemon has left that was killed while it wrote it. */
export async function removeRecord(
  stateDirectory: string,
  namespace: string,
  containerId: string,
): Promise<void> {
  await removeFileAndTorn(recordPath(stateDirectory, namespace, containerId));
}

/** The identity of a process that is known to live; one that has just died never counts as alive. */
export function identityOf(pid: number): ProcessIdentity {
  return identify(pid) ?? { pid, startTicks: "" };
}
