/** The commands that change what a container does: start, kill, pause, resume, update. */
import { RuntimeError } from "../base/errors.ts";
import type { TaskClient } from "../client/task-client.ts";
import { type Host, requireRoot } from "./host.ts";
import { probe, type Status } from "./probe.ts";

export async function start(host: Host, id: string): Promise<number> {
  requireRoot();
  const record = await host.containers.load(id);
  const { status, client } = await probe(host, record);
  await using connected = client;
  if (connected === undefined || status !== "created") {
    throw wrongState(
      status === "stopped"
        ? "cannot start a container that has stopped"
        : "cannot start an already running container",
    );
  }
  await connected.start("");
  return 0;
}

/** `signal` 0 only asks. With `all` every process gets it, and one that has ended is fine. */
export async function kill(host: Host, id: string, signal: number, all: boolean): Promise<number> {
  requireRoot();
  const { status, client } = await probe(host, await host.containers.load(id));
  await using connected = client;
  if (connected === undefined || status === "stopped") {
    if (all) return 0;
    throw wrongState("container not running");
  }
  if (signal === 0) return 0;
  await connected.kill("", signal, { all }).catch((error: unknown) => {
    // It has ended since.
    if (!(error instanceof RuntimeError) || error.code !== "not_found") throw error;
    if (!all) throw wrongState("container not running");
  });
  return 0;
}

export function pause(host: Host, id: string): Promise<number> {
  return change(host, id, "running", "container not running", (client) => client.pause());
}

export function resume(host: Host, id: string): Promise<number> {
  return change(host, id, "paused", "container not paused", (client) => client.resume());
}

export async function update(host: Host, id: string, resources: object): Promise<number> {
  requireRoot();
  const { status, client } = await probe(host, await host.containers.load(id));
  await using connected = client;
  if (connected === undefined || status === "stopped") throw wrongState("container not running");
  await connected.update(resources);
  return 0;
}

async function change(
  host: Host,
  id: string,
  wanted: Status,
  refusal: string,
  act: (client: TaskClient) => Promise<void>,
): Promise<number> {
  requireRoot();
  const { status, client } = await probe(host, await host.containers.load(id));
  await using connected = client;
  if (connected === undefined || status !== wanted) throw wrongState(refusal);
  await act(connected);
  return 0;
}

function wrongState(message: string): RuntimeError {
  return new RuntimeError("failed_precondition", message);
}
