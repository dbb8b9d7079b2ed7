import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { ignore } from "../base/files.ts";
import { isAlive } from "../base/processes.ts";
import { metricsSocketPath } from "./metrics-socket.ts";
import { readRecord } from "./record.ts";

/** A sandbox whose daemon lives, and where it serves its metrics. */
export interface MetricsTarget {
  readonly namespace: string;
  readonly sandboxId: string;
  readonly path: string;
}

/** All sandboxes of this machine with a living daemon, whoever started them, in the order of their names. */
export async function listMetricsTargets(stateDirectory: string): Promise<MetricsTarget[]> {
  const names = (await readdir(join(stateDirectory, ".shims")).catch(ignore("ENOENT"))) ?? [];
  const targets = new Map<string, MetricsTarget>();
  for (const name of names.toSorted()) {
    // Records of containers; beside them lie sockets.
    const [, namespace, containerId] = /^([^+]+)\+([^+]+)\.json$/.exec(name) ?? [];
    if (namespace === undefined || containerId === undefined) continue;
    const record = await readRecord(stateDirectory, namespace, containerId);
    if (record === undefined || !isAlive(record.daemon)) continue;
    const { sandboxId } = record;
    const path = metricsSocketPath(stateDirectory, namespace, sandboxId);
    targets.set(path, { namespace, sandboxId, path });
  }
  return [...targets.values()];
}
