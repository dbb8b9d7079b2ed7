import { stat } from "node:fs/promises";
import { Timeline } from "../sandbox/timeline.ts";
import type { ContainerRecord } from "./container-store.ts";
import { type Host, shimOf } from "./host.ts";
import { deleteShim } from "../client/shim-program.ts";
import type { TaskClient } from "../client/task-client.ts";

export interface TaskExit {
  readonly exitCode: number;
  readonly exitedAt: Date;
}

/**
 * The end of a container's task, in the order in which containerd does it: Delete, Shutdown, end of the connection,
 * the shim's `delete`. Only that last step counts: it removes what is left whatever state the daemon is in.
 * Returns the exit code that the shim knows.
 */
export async function endTask(
  host: Host,
  containerId: string,
  client: TaskClient | undefined,
  timeline = new Timeline(),
): Promise<number> {
  if (client !== undefined) {
    try {
      await timeline.measure("delete", () => client.delete(""));
      await timeline.measure("shutdown", () => client.shutdown());
    } catch {
      // It did not go the gentle way; `delete` ends the daemon by force and reports what it cannot do.
    }
    await client[Symbol.asyncDispose]();
  }
  return timeline.measure("shim delete", () => deleteShim(shimOf(host, containerId)));
}

/** Writes down how a container ended, or removes it when that was asked for. The caller is its keeper. */
export async function settle(host: Host, record: ContainerRecord, exit: TaskExit): Promise<void> {
  if (record.autoRemove) return host.containers.remove(record.id);
  const state = { tag: "exited", exitCode: exit.exitCode, exitedAt: exit.exitedAt.toISOString() } as const;
  await host.containers.save({ ...record, state });
}

/**
 * Brings a container that nobody waits for any more to its recorded end: the keeper before us has ended without doing
 * so. The caller is its keeper now.
 */
export async function finishAbandoned(host: Host, record: ContainerRecord): Promise<void> {
  if (record.state.tag === "exited") return;
  if (record.state.tag === "creating") return removeUnfinished(host, record.id);
  const exitCode = await endTask(host, record.id, undefined);
  await settle(host, record, { exitCode, exitedAt: new Date() });
}

/** Undoes a creation that did not come to its end. */
export async function removeUnfinished(host: Host, containerId: string): Promise<void> {
  const { bundle } = host.containers.paths(containerId);
  if (await isDirectory(bundle)) await deleteShim(shimOf(host, containerId));
  await host.containers.remove(containerId);
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (status) => status.isDirectory(),
    () => false,
  );
}
