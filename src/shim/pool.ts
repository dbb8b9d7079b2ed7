import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, RuntimeError } from "../base/errors.ts";
import { ignore, removeDirectory, removeFile } from "../base/files.ts";
import { createLog, foreignText, type Log } from "../base/log.ts";
import { isAlive } from "../base/processes.ts";
import { within } from "../base/scope.ts";
import type { Config } from "../config/config.ts";
import { readJournal } from "../sandbox/journal.ts";
import { readyNamespace, rehearsalId, sandboxPaths } from "../sandbox/paths.ts";
import { readyDirectory } from "./offer.ts";
import type { ShimParts } from "./parts.ts";

/** What a daemon that waits says to its keeper, one JSON line each. */
export type KeptMessage =
  | { readonly tag: "ready" | "taken" }
  | { readonly tag: "failed"; readonly message: string };

/** After one was taken, so that the boot of the next does not compete with the start that took it. */
const refillDelayMs = 1_500;
const firstBackoffMs = 1_000;
const maxBackoffMs = 60_000;
const endTimeoutMs = 8_000;

/**
 * Keeps daemons ready, each with a booted VM, until it is told to end; what waits then ends too, and what was taken goes on.
 * Whatever a keeper that was killed has left is removed first.
 *
 * @throws failed_precondition  no pool is configured, or no VM fits in what it may take
 */
export async function keepPool(parts: ShimParts): Promise<void> {
  const config = await parts.loadConfig();
  const size = poolSize(config);
  const log = createLog(config.logLevel, { write: (line) => void process.stderr.write(line) });
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop.abort());
  const pool = new Pool(parts, config, log);
  await pool.removeStale();
  log.info({ size }, "pool of ready VMs");
  try {
    await pool.keep(size, stop.signal);
  } finally {
    await pool.end();
  }
}

/** @throws failed_precondition */
function poolSize(config: Config): number {
  const { poolSize: wanted, poolMemoryMiB } = config;
  const memoryMiB = config.memoryMiB || config.defaultMemoryMiB;
  const size = Math.min(wanted, Math.floor(poolMemoryMiB / memoryMiB));
  if (size > 0) return size;
  throw new RuntimeError(
    "failed_precondition",
    wanted === 0
      ? "Cannot keep a pool: pool_size is 0 in the configuration"
      : `Cannot keep a pool: pool_memory_mib is ${poolMemoryMiB}, and one VM has ${memoryMiB} MiB`,
  );
}

class Pool {
  readonly #parts: ShimParts;
  readonly #config: Config;
  readonly #log: Log;
  /** Those that boot or wait. */
  readonly #kept = new Map<string, ChildProcess>();
  #onChange = () => {};

  constructor(parts: ShimParts, config: Config, log: Log) {
    this.#parts = parts;
    this.#config = config;
    this.#log = log;
  }

  /** Removes what daemons have left that are dead. */
  async removeStale(): Promise<void> {
    const { stateDirectory } = this.#config;
    const sockets = (await readdir(readyDirectory(stateDirectory)).catch(ignore("ENOENT"))) ?? [];
    const states = (await readdir(join(stateDirectory, readyNamespace)).catch(ignore("ENOENT"))) ?? [];
    for (const id of new Set([...sockets, ...states])) {
      const { directory } = sandboxPaths(stateDirectory, readyNamespace, id);
      const daemons = readJournal(directory).filter((entry) => entry.kind === "daemon");
      if (!daemons.some(({ identity }) => isAlive(identity))) await this.#remove(id);
    }
  }

  /** One boots at a time. Resolves when the signal comes. */
  async keep(size: number, signal: AbortSignal): Promise<void> {
    const over = new Promise<void>((resolve) => {
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    let backoffMs = firstBackoffMs;
    while (!signal.aborted) {
      const changed = Promise.withResolvers<void>();
      this.#onChange = changed.resolve;
      if (this.#kept.size >= size) {
        await Promise.race([changed.promise, over]);
        await Promise.race([sleep(refillDelayMs), over]);
        continue;
      }
      const isUp = await Promise.race([this.#add(), over]);
      if (isUp === false) await Promise.race([sleep(backoffMs), over]);
      backoffMs = isUp === false ? Math.min(2 * backoffMs, maxBackoffMs) : firstBackoffMs;
    }
  }

  /** Ends those that wait. */
  async end(): Promise<void> {
    const ends = [...this.#kept.values()].map(
      (child) =>
        new Promise<void>((resolve) => {
          child.once("exit", () => resolve());
          child.kill("SIGTERM");
        }),
    );
    await within(Promise.all(ends), endTimeoutMs, undefined);
    for (const id of this.#kept.keys()) await this.#remove(id);
    const { stateDirectory } = this.#config;
    for (const directory of [join(stateDirectory, readyNamespace), readyDirectory(stateDirectory)])
      await removeDirectory(directory).catch(ignore("ENOTEMPTY"));
  }

  /** Starts a daemon. False: it has not come up. */
  async #add(): Promise<boolean> {
    const id = randomBytes(8).toString("hex");
    const [program = ""] = process.argv.slice(1);
    // Of a session of its own, as with the launcher: it outlives us once it has a sandbox.
    const child = spawn(process.execPath, [...process.execArgv, program, "-id", id, "ready-daemon"], {
      cwd: "/",
      detached: true,
      stdio: ["ignore", "ignore", "ignore", "pipe"],
    });
    this.#kept.set(id, child);
    const up = Promise.withResolvers<boolean>();
    child.on("error", (error) => {
      this.#log.error({ error: describe(error) }, "cannot start a daemon for the pool");
      up.resolve(false);
      this.#drop(id);
    });
    child.once("exit", () => {
      up.resolve(false);
      void this.#onExit(id);
    });
    this.#listen(id, child, up.resolve);
    return up.promise;
  }

  #listen(id: string, child: ChildProcess, onUp: (isUp: boolean) => void): void {
    const channel = child.stdio[3] as Readable;
    channel.on("error", () => {
      // It has ended; its exit says so.
    });
    createInterface({ input: channel }).on("line", (line) => {
      const message = JSON.parse(line) as KeptMessage;
      switch (message.tag) {
        case "ready":
          this.#log.debug({ id, pid: child.pid }, "a VM is ready");
          onUp(true);
          break;
        case "taken":
          // It is on its own from here.
          child.unref();
          this.#drop(id);
          break;
        case "failed":
          this.#log.error({ error: foreignText(message.message) }, "cannot boot a VM for the pool");
          break;
      }
    });
  }

  async #onExit(id: string): Promise<void> {
    const wasKept = this.#kept.has(id);
    if (wasKept) this.#log.warn({ id }, "a daemon of the pool has ended");
    // Of one that was taken there is something only when it died on its way to the sandbox.
    await this.#remove(id).catch((error: unknown) =>
      this.#log.error({ error: describe(error) }, "cannot clean up"),
    );
    this.#drop(id);
  }

  async #remove(id: string): Promise<void> {
    const { stateDirectory } = this.#config;
    await removeFile(join(readyDirectory(stateDirectory), id));
    for (const sandboxId of [id, rehearsalId(id)])
      await this.#parts.removeSandbox({ stateDirectory, namespace: readyNamespace, sandboxId });
  }

  #drop(id: string): void {
    if (this.#kept.delete(id)) this.#onChange();
  }
}
