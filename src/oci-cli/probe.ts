import { codeOf, RuntimeError } from "../base/errors.ts";
import { isAlive } from "../base/processes.ts";
import { TaskClient } from "../client/task-client.ts";
import type { Host } from "./host.ts";
import type { ContainerRecord } from "./store.ts";

export type Status = "creating" | "created" | "running" | "paused" | "stopped";

/** What a container is doing. The daemon of a stopped one may be gone. */
export type Liveness =
  | { readonly status: "created" | "running" | "paused"; readonly client: TaskClient }
  /** Somebody is about to. */
  | { readonly status: "creating"; readonly client: undefined }
  | { readonly status: "stopped"; readonly client: TaskClient | undefined };

/** Asks the daemon. The caller closes the client. @throws deadline_exceeded  it does not answer */
export async function probe(host: Host, record: ContainerRecord): Promise<Liveness> {
  if (record.address === "") {
    // Whoever began to create it and has ended left it like this.
    return { status: isAlive(record.proxy) ? "creating" : "stopped", client: undefined };
  }
  const { sandboxId } = host.containers.sandboxName(record.id);
  let client: TaskClient | undefined;
  try {
    client = await TaskClient.connect(record.address, sandboxId);
    const status = await client.status("");
    if (status === "unknown") throw new RuntimeError("internal", `container "${record.id}" has no state`);
    return { status, client };
  } catch (error) {
    await client?.[Symbol.asyncDispose]();
    if (codeOf(error) !== "unavailable" && codeOf(error) !== "not_found") throw error;
    return { status: "stopped", client: undefined };
  }
}

/** The same, without the connection. */
export async function statusOf(host: Host, record: ContainerRecord): Promise<Status> {
  const { status, client } = await probe(host, record);
  await client?.[Symbol.asyncDispose]();
  return status;
}
