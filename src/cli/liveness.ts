import { codeOf } from "../base/errors.ts";
import type { ContainerRecord } from "./container-store.ts";
import { hasKeeper } from "./keeper.ts";
import { TaskClient } from "../client/task-client.ts";

/**
 * What a container is doing. `stopping`: its process has ended, and somebody still clears up. `dead`: nobody does, its
 * daemon is gone or it was never finished.
 */
export type Liveness =
  | { readonly tag: "running"; readonly client: TaskClient }
  | { readonly tag: "creating" }
  | { readonly tag: "stopping" }
  | { readonly tag: "exited"; readonly exitCode: number; readonly exitedAt: string }
  | { readonly tag: "dead" };

/** Asks the daemon where the record cannot tell. The caller closes the client of a running one. */
export async function probe(record: ContainerRecord, directory: string): Promise<Liveness> {
  const { state } = record;
  if (state.tag === "exited") return state;
  if (state.tag === "creating") return (await hasKeeper(directory)) ? state : { tag: "dead" };
  let client: TaskClient | undefined;
  try {
    client = await TaskClient.connect(state.address, record.id);
    const status = await client.status("");
    if (status !== "stopped") return { tag: "running", client };
    await client[Symbol.asyncDispose]();
    return { tag: "stopping" };
  } catch (error) {
    await client?.[Symbol.asyncDispose]();
    if (codeOf(error) !== "unavailable" && codeOf(error) !== "not_found") throw error;
    return { tag: (await hasKeeper(directory)) ? "stopping" : "dead" };
  }
}
