import { readFileSync } from "node:fs";
import { join } from "node:path";
import { taskMethods } from "../../src/shim/task-api.ts";
import { TtrpcClient } from "../../src/ttrpc/client.ts";
import { bundleOf } from "./delete-command.ts";
import type { Scene } from "./scene.ts";

/** A connection of our own to a container's daemon, past containerd. */
export interface DaemonClient extends AsyncDisposable {
  /** Resolves with the exit status of the container's init. */
  wait(): Promise<number>;
}

const service = "containerd.task.v3.Task";

export async function connectDaemon(scene: Scene): Promise<DaemonClient> {
  const text = readFileSync(join(bundleOf(scene), "bootstrap.json"), "utf8");
  const { address } = JSON.parse(text) as { address: string };
  const client = await TtrpcClient.connect(address.replace("unix://", ""), { timeoutMs: 5_000 });
  const request = { id: scene.id, execId: "" };
  return {
    wait: async () => (await client.call(service, taskMethods.wait, request)).exitStatus ?? 0,
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}
