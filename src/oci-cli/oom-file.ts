import { readFile, writeFile } from "node:fs/promises";
import { constants } from "node:os";
import { join } from "node:path";
import type { TaskClient } from "../client/task-client.ts";
import { readStats } from "./events.ts";

const killedExitCode = 128 + constants.signals.SIGKILL;

/**
 * Says that a container was killed for want of memory where Podman and CRI-O look for it: in the file `oom` of the bundle.
 * conmon makes that file, but it watches the host's cgroup, and the kill was in the guest's.
 */
export async function noteOomKill(client: TaskClient, bundle: string, exitCode: number): Promise<void> {
  if (exitCode !== killedExitCode || !(await isChildOfConmon())) return;
  const stats = await readStats(client);
  if (stats !== undefined && stats.oomKills > 0n) await writeFile(join(bundle, "oom"), "");
}

async function isChildOfConmon(): Promise<boolean> {
  const name = await readFile(`/proc/${process.ppid}/comm`, "utf8").catch(() => "");
  return name === "conmon\n";
}
