import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { RuntimeError } from "../base/errors.ts";
import { minimalEnvironment } from "../base/exec.ts";
import type { Host } from "./host.ts";
import { takeKeeper } from "./keeper.ts";
import { endTask, settle } from "./task-end.ts";
import { TaskClient } from "../client/task-client.ts";
import { waitCommand } from "./wait-command.ts";

/** What it says when it is connected to the container's daemon. */
const readyLine = "ready\n";

/**
 * Starts a process that waits for the container's end, then removes what ran it and records the exit. It becomes the
 * container's keeper as soon as we let go.
 *
 * @throws unavailable  it could not be started
 */
export async function handOver(host: Host, containerId: string): Promise<void> {
  const { directory, config } = host.containers.paths(containerId);
  const [file = "", ...args] = host.ownArgv;
  // The only place where it can complain.
  const log = openSync(join(directory, "keeper.log"), "a", 0o600);
  try {
    const child = spawn(file, [...args, waitCommand, containerId], {
      cwd: "/",
      env: { ...minimalEnvironment, CAISSON_CONFIG: config },
      stdio: ["ignore", "pipe", log],
      detached: true,
    });
    await readyOf(child, containerId);
    child.unref();
  } finally {
    closeSync(log);
  }
}

/** Resolves when the child has said that it is ready. */
async function readyOf(child: ChildProcess, containerId: string): Promise<void> {
  const stdout = child.stdout as Readable;
  const failed = once(child, "error").then(([error]) => {
    throw error;
  });
  const first: unknown = await Promise.race([
    once(stdout, "data").then(([chunk]) => String(chunk)),
    once(child, "exit").then(([exitCode]) => exitCode),
    failed,
  ]);
  stdout.destroy();
  if (first === readyLine) return;
  throw new RuntimeError(
    "unavailable",
    `Cannot wait for container "${containerId}" in the background: the process ended with ${String(first)}`,
  );
}

/** The hidden command itself. */
export async function wait(host: Host, containerId: string): Promise<number> {
  const { directory } = host.containers.paths(containerId);
  const record = await host.containers.load(containerId);
  if (record.state.tag !== "started") return 0;
  const client = await TaskClient.connect(record.state.address, containerId);
  const waiting = client.wait("");
  waiting.catch(() => {});
  // Nobody reads the second line.
  process.stdout.on("error", () => {});
  process.stdout.write(readyLine);
  const keeper = await takeKeeper(directory);
  if (keeper === undefined) return 0;
  try {
    // Somebody else may have ended it before we were the keeper.
    const current = await host.containers.find(containerId);
    if (current?.createdAt !== record.createdAt || current.state.tag !== "started") return 0;
    const exit = await waiting.catch(() => undefined);
    const known = await endTask(host, containerId, client);
    await settle(host, record, exit ?? { exitCode: known, exitedAt: new Date() });
    return 0;
  } finally {
    await keeper[Symbol.asyncDispose]();
  }
}
