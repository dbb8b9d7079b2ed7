import { mkdir, rm } from "node:fs/promises";
import { createServer, type Server, Socket } from "node:net";
import { dirname, join } from "node:path";
import { describe } from "../base/errors.ts";
import { ignore, removeDirectory } from "../base/files.ts";
import { checkId } from "../base/ids.ts";
import { createLog, type Log } from "../base/log.ts";
import { loadSpec } from "../oci/spec.ts";
import { cgroupPlaceOf } from "../sandbox/cgroup-path.ts";
import type { ReadyVm } from "../sandbox/ready-vm.ts";
import { readBootstrap } from "./bootstrap.ts";
import { serveStart } from "./daemon.ts";
import { keepAlive, processOfOne, shimCgroupOf } from "./daemon-process.ts";
import type { Flags } from "./flags.ts";
import { isSandboxBundle } from "./group.ts";
import { Handshake } from "./handshake.ts";
import { DaemonMetrics } from "./metrics.ts";
import {
  callOf,
  decline,
  describeProgram,
  hasOurConfig,
  isFromSameHost,
  joinCgroups,
  type Offer,
  readyDirectory,
  receiveOffer,
  takeOomScore,
} from "./offer.ts";
import { readSandboxOptions } from "./options.ts";
import type { ShimParts } from "./parts.ts";
import type { KeptMessage } from "./pool.ts";
import { ReadyLog } from "./ready-log.ts";
import { rehearse } from "./rehearsal.ts";

const keeperFd = 3;
const aliveIntervalMs = 60_000;

/**
 * A daemon that has booted its VM before there is a sandbox for it. Serves as any other from the first `start` on that it suits.
 * Ends when its keeper (fd 3) does, or its VM, as long as it has no sandbox.
 */
export async function runReadyDaemon(flags: Flags, parts: ShimParts): Promise<void> {
  const keeper = new Socket({ fd: keeperFd });
  const tell = (message: KeptMessage) => void keeper.write(`${JSON.stringify(message)}\n`);
  // While it cleans up there can be a moment with nothing but timers that keep no process alive.
  const alive = setInterval(() => {}, aliveIntervalMs);
  const stop = new AbortController();
  const end = () => stop.abort(new Error("The pool ends"));
  keeper.on("error", end).on("close", end).on("end", end).resume();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, end);
  try {
    const daemon = await ReadyDaemon.start(flags.id, parts, stop.signal);
    tell({ tag: "ready" });
    const isTaken = await daemon.waitForOffer(() => tell({ tag: "taken" }));
    if (isTaken) {
      clearInterval(alive);
      keeper.end();
      return;
    }
  } catch (error) {
    tell({ tag: "failed", message: describe(error) });
  }
  keeper.end(() => process.exit(1));
}

interface Waiting {
  readonly ready: ReadyVm;
  readonly lines: ReadyLog;
  readonly log: Log;
  readonly metrics: DaemonMetrics;
  readonly socketPath: string;
  /** Aborts when the pool ends. */
  readonly signal: AbortSignal;
}

class ReadyDaemon {
  readonly #parts: ShimParts;
  readonly #waiting: Waiting;
  readonly #program = describeProgram();
  #isTaken = false;

  private constructor(parts: ShimParts, waiting: Waiting) {
    this.#parts = parts;
    this.#waiting = waiting;
  }

  static async start(id: string, parts: ShimParts, signal: AbortSignal): Promise<ReadyDaemon> {
    checkId("id of a daemon of the pool", id);
    const config = await parts.loadConfig();
    const lines = new ReadyLog();
    const log = createLog(config.logLevel, lines);
    keepAlive(log);
    const metrics = new DaemonMetrics();
    const ready = await parts.bootReadyVm({ id, config, log, observer: metrics, signal });
    const directory = readyDirectory(config.stateDirectory);
    try {
      await rehearse(ready, { parts, config, signal });
      await mkdir(directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      await ready[Symbol.asyncDispose]();
      throw error;
    }
    // Now, not in the middle of the start that takes it.
    globalThis.gc?.({ type: "major", execution: "sync" });
    return new ReadyDaemon(parts, { ready, lines, log, metrics, socketPath: join(directory, id), signal });
  }

  /** False: the VM has ended, or the pool, and nothing is left. */
  async waitForOffer(onTaken: () => void): Promise<boolean> {
    const taken = Promise.withResolvers<void>();
    const onSocket = (server: Server) => (socket: Socket) => {
      this.#answer(new Handshake(socket), () => {
        server.close();
        onTaken();
        taken.resolve();
      }).catch(() => socket.destroy());
    };
    const server: Server = createServer();
    server.on("connection", onSocket(server));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(this.#waiting.socketPath, resolve);
    });
    const aborted = new Promise<"over">((resolve) => {
      const onAbort = () => resolve("over");
      if (this.#waiting.signal.aborted) onAbort();
      this.#waiting.signal.addEventListener("abort", onAbort, { once: true });
    });
    await Promise.race([taken.promise, aborted, this.#waiting.ready.lost]);
    if (this.#isTaken) return true;
    this.#isTaken = true;
    await rm(this.#waiting.socketPath, { force: true });
    server.close();
    await removeDirectory(dirname(this.#waiting.socketPath)).catch(ignore("ENOTEMPTY"));
    await this.#waiting.ready[Symbol.asyncDispose]();
    return false;
  }

  async #answer(handshake: Handshake, onTaken: () => void): Promise<void> {
    const received = await receiveOffer(handshake);
    if (received === undefined || !(await this.#suits(received)) || this.#isTaken) {
      await decline(handshake);
      return;
    }
    this.#isTaken = true;
    // Nobody else comes: what is in the queue of the socket finds it closed.
    await rm(this.#waiting.socketPath, { force: true });
    onTaken();
    const { ready, metrics, lines, log } = this.#waiting;
    const { offer, flags } = received;
    const vmPids = ready.processes.map(({ pid }) => pid);
    takeOomScore(offer, [...vmPids, process.pid]);
    const parts = { ready, metrics, log: lines };
    const isServing = await serveStart(callOf(handshake, received), this.#parts, processOfOne(), parts);
    if (!isServing) process.exit(1);
    // In nobody's way: the kernel takes its time for each.
    const failures = await joinCgroups(
      offer,
      (await this.#hasCgroup(flags)) ? [process.pid] : [process.pid, ...vmPids],
    );
    if (failures.length > 0) log.warn({ failures }, "cannot join the cgroups of the caller");
  }

  /** Whether a sandbox of our own would be no different. */
  async #suits({ offer, flags }: { offer: Offer; flags: Flags }): Promise<boolean> {
    try {
      if (!isFromSameHost(offer) || !hasOurConfig(offer) || describeProgram() !== this.#program) return false;
      if (isSandboxBundle(flags.bundle)) return false;
      const bootstrap = readBootstrap(Buffer.from(offer.stdin, "hex"), flags.id, flags.namespace);
      if (shimCgroupOf(bootstrap.options) !== "") return false;
      const config = await this.#parts.loadConfig(readSandboxOptions(bootstrap.options).sources);
      return this.#waiting.ready.fits(await loadSpec(flags.bundle), config);
    } catch {
      // The words for what is wrong come from the daemon that the launcher starts.
      return false;
    }
  }

  /** Whether Create moves the VM to a cgroup of its own. */
  async #hasCgroup({ bundle }: Flags): Promise<boolean> {
    return cgroupPlaceOf(await loadSpec(bundle), await this.#parts.loadConfig()) !== undefined;
  }
}
