import { closeSync, constants, existsSync, mkdirSync, openSync, rmdirSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import { asError } from "../base/errors.ts";
import { loadNative } from "../base/native.ts";
import { within } from "../base/scope.ts";
import type { Stdio } from "../sandbox/model.ts";
import { openStandardSink, type Sink } from "./sinks.ts";

export interface ProcessIoOptions {
  /** Made for the FIFOs, and removed with them. */
  readonly directory: string;
  readonly stdin: boolean;
  readonly terminal: boolean;
  /** Gets stdout and stderr too. */
  readonly log?: Sink;
  /** Where stdout goes instead of our own. */
  readonly stdout?: Sink;
}

/** A pause of the output after which nothing is expected of a process that has ended. */
const quietMs = 100;

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;

/**
 * Our side of a process's stdio: FIFOs between the shim and our own stdin, stdout and stderr.
 *
 * Both ends of each FIFO are opened at once, non-blocking; the far end is only held until the shim has opened it
 * (`releaseHolds`), so that neither side ever sees an end that is not one.
 */
export class ProcessIo implements Disposable {
  readonly stdio: Stdio;
  /** Resolves when all output has arrived and was written. Never rejects. */
  readonly outputDone: Promise<void>;
  /** Resolves with the reason when our stdout takes no more; what follows is dropped. */
  readonly stdoutBroken: Promise<Error>;

  readonly #directory: string;
  readonly #paths: string[] = [];
  readonly #holds: number[] = [];
  readonly #streams: Socket[] = [];
  readonly #input: Socket | undefined;
  /** Writes that are under way, and chunks that have come at all. */
  #writing = 0;
  #received = 0;

  constructor(options: ProcessIoOptions) {
    const { directory, terminal, log } = options;
    this.#directory = directory;
    mkdirSync(directory, { mode: 0o700 });
    try {
      this.#input = options.stdin ? this.#open("stdin", "write") : undefined;
      const stdout = this.#open("stdout", "read");
      const stderr = terminal ? undefined : this.#open("stderr", "read");
      const broken = Promise.withResolvers<Error>();
      this.stdoutBroken = broken.promise;
      this.outputDone = Promise.all([
        this.#pump(
          stdout,
          [options.stdout ?? openStandardSink(1), ...(log === undefined ? [] : [log])],
          broken.resolve,
        ),
        // Without a reader of our stderr the process goes on, as its stdout is what matters.
        stderr && this.#pump(stderr, [openStandardSink(2), ...(log === undefined ? [] : [log])], () => {}),
      ]).then(() => {});
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
    this.stdio = {
      stdin: options.stdin ? join(directory, "stdin") : "",
      stdout: join(directory, "stdout"),
      stderr: terminal ? "" : join(directory, "stderr"),
      terminal,
    };
  }

  /** The shim has opened its ends (Create, or Start of an exec, has answered). */
  releaseHolds(): void {
    for (const fd of this.#holds.splice(0)) closeSync(fd);
  }

  /** Resolves when what has come is written out and nothing more comes, though children may hold the output open. */
  async quiet(): Promise<void> {
    const ended = this.outputDone.then(() => true);
    for (let seen = -1; this.#writing > 0 || seen !== this.#received; ) {
      seen = this.#received;
      if (await within(ended, quietMs, false)) return;
    }
  }

  /** Copies `source` (our stdin) until it ends or the process reads no more; `onEnd` then tells the shim that it has ended. */
  async copyInput(onEnd: () => Promise<void>, source: AsyncIterable<unknown> = process.stdin): Promise<void> {
    const input = this.#input;
    if (input === undefined) return;
    try {
      for await (const chunk of source) await writeAll(input, chunk as Uint8Array);
      await endOf(input);
      await onEnd();
    } catch {
      // The process does not read any more, or has ended: what it exits with is what counts.
      input.destroy();
    }
  }

  [Symbol.dispose](): void {
    this.releaseHolds();
    for (const stream of this.#streams) stream.destroy();
    // The whole container may have been removed meanwhile.
    for (const path of this.#paths.splice(0)) rmSync(path, { force: true });
    if (existsSync(this.#directory)) rmdirSync(this.#directory);
  }

  /** Copies to every sink, as fast as the slowest one takes it; a sink that fails gets nothing more. */
  async #pump(source: Socket, sinks: readonly Sink[], onBroken: (error: Error) => void): Promise<void> {
    const working = new Set(sinks);
    const [own] = sinks;
    try {
      for await (const chunk of source) {
        this.#received++;
        this.#writing++;
        const writes = [...working].map(async (sink) => {
          try {
            await sink.write(chunk as Uint8Array);
          } catch (error) {
            working.delete(sink);
            if (sink === own) onBroken(asError(error));
          }
        });
        await Promise.all(writes);
        this.#writing--;
      }
    } catch {
      // We have closed it ourselves.
    }
  }

  #open(name: string, direction: "read" | "write"): Socket {
    const path = join(this.#directory, name);
    loadNative().makeFifo(path, 0o600);
    this.#paths.push(path);
    const isReader = direction === "read";
    const reader = openSync(path, O_RDONLY | O_NONBLOCK);
    const writer = openSync(path, O_WRONLY | O_NONBLOCK);
    this.#holds.push(isReader ? writer : reader);
    const stream = new Socket({ fd: isReader ? reader : writer, readable: isReader, writable: !isReader });
    this.#streams.push(stream);
    stream.on("error", () => {
      // Reported by whoever reads or writes.
    });
    return stream;
  }
}

function writeAll(stream: Socket, chunk: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(chunk, (error) => (error ? reject(error) : resolve()));
  });
}

/** Closes the writing end and waits until it is closed. */
function endOf(stream: Socket): Promise<void> {
  return new Promise((resolve) => {
    stream.once("close", () => resolve());
    stream.end(() => stream.destroy());
  });
}
