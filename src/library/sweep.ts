import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { describe } from "../base/errors.ts";
import { ignore } from "../base/files.ts";
import type { Log } from "../base/log.ts";
import { isAlive } from "../base/processes.ts";
import type { Config } from "../config/config.ts";
import { removeSandbox } from "../sandbox/remove.ts";
import { removeTree } from "../storage/remove-tree.ts";
import { directoriesOf, namespace, ownerOf, sandboxesDirectory } from "./host.ts";

type SweepConfig = Pick<Config, "stateDirectory" | "dataDirectory">;

const swept = new Map<string, Promise<void>>();

/** Sweeps before the first sandbox of this program; never fails. */
export function sweepOnce(config: SweepConfig, log: Log): Promise<void> {
  const key = JSON.stringify([config.stateDirectory, config.dataDirectory]);
  const sweeping = swept.get(key) ?? sweep(config, log);
  swept.set(key, sweeping);
  return sweeping;
}

/**
 * Removes what sandboxes of dead programs have left: the VM died with its program, but not the directories, mounts and user
 * ids. An id names the owner by pid and start time, so what somebody uses is never touched. Two programs may do it at the
 * same time: each step takes "gone already" for success, and what one fails with the other has done or the next will.
 */
async function sweep(config: SweepConfig, log: Log): Promise<void> {
  const { stateDirectory } = config;
  const lists = await Promise.all(
    [join(stateDirectory, namespace), sandboxesDirectory(config)].map((path) =>
      readdir(path).catch(ignore("ENOENT")),
    ),
  );
  const ids = new Set(lists.flatMap((names) => names ?? []));
  for (const sandboxId of ids) {
    const owner = ownerOf(sandboxId);
    if (owner === undefined || isAlive(owner)) continue;
    try {
      await removeSandbox({ stateDirectory, namespace, sandboxId });
      await removeTree(directoriesOf(config, sandboxId).directory);
    } catch (error) {
      log.warn(
        { left: sandboxId, error: describe(error) },
        "cannot remove what a dead program's sandbox left",
      );
    }
  }
}
