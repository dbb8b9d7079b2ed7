import { closeSync, constants, existsSync, openSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { Socket } from "node:net";
import { join } from "node:path";
import { PassThrough, type Readable, type Writable } from "node:stream";
import { loadNative } from "../base/native.ts";
import type { Stdio } from "../sandbox/model.ts";

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;

export interface WantedStdio {
  /** Whether it has something to read. Default: true. */
  readonly stdin?: boolean;
  /** Whether it has a terminal; stdout then has everything. Default: false. */
  readonly terminal?: boolean;
}

/**
 * The streams of a container's process, as FIFOs in a directory that outlives its maker: whoever opens them next goes on where the
 * last one stopped. They are opened at first use; two readers of one stream would share it.
 */
export class FifoStdio {
  readonly #directory: string;
  readonly #open = new Map<string, Socket>();
  /** Ends of the runtime's side, until it has opened them. */
  #holds: number[] = [];
  /** Nobody reads from these: a FIFO loses what is in it with its last end. */
  readonly #kept: number[] = [];

  /** Of a process whose FIFOs are there. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Makes the FIFOs, and holds both ends of each until the runtime has opened its own. */
  static async make(directory: string, { stdin = true, terminal = false }: WantedStdio): Promise<FifoStdio> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const names = [...(stdin ? ["stdin"] : []), "stdout", ...(terminal ? [] : ["stderr"])];
    const stdio = new FifoStdio(directory);
    for (const name of names) {
      const path = join(directory, name);
      loadNative().makeFifo(path, 0o600);
      // A reader first: without one nobody can open the writing end.
      const reader = openSync(path, O_RDONLY | O_NONBLOCK);
      (name === "stdin" ? stdio.#holds : stdio.#kept).push(reader);
      stdio.#holds.push(openSync(path, O_WRONLY | O_NONBLOCK));
    }
    return stdio;
  }

  /** For the runtime. */
  toStdio(terminal: boolean): Stdio {
    const path = (name: string) =>
      existsSync(join(this.#directory, name)) ? join(this.#directory, name) : "";
    return { stdin: path("stdin"), stdout: path("stdout"), stderr: path("stderr"), terminal };
  }

  /** The runtime has opened its ends. What it writes stays in the FIFO until it is read, or everybody has let go of it. */
  release(): void {
    const holds = this.#holds;
    this.#holds = [];
    for (const fd of holds) closeSync(fd);
  }

  get stdin(): Writable {
    return this.#stream("stdin", O_WRONLY) ?? new PassThrough().resume();
  }

  get stdout(): Readable {
    return this.#stream("stdout", O_RDONLY) ?? new PassThrough().end();
  }

  get stderr(): Readable {
    return this.#stream("stderr", O_RDONLY) ?? new PassThrough().end();
  }

  /**
   * Nobody writes any more but who holds an end already. A reader that has come after the last writer waits for one (fifo(7)): it
   * gets one that goes at once, and with it the end.
   */
  endReaders(): void {
    for (const [name, stream] of this.#open) {
      if (name === "stdin" || stream.destroyed) continue;
      try {
        closeSync(openSync(join(this.#directory, name), O_WRONLY | O_NONBLOCK));
      } catch {
        // It was deleted.
      }
    }
  }

  /** Closes our ends; the FIFOs stay. */
  close(): void {
    this.release();
    for (const fd of this.#kept.splice(0)) closeSync(fd);
    for (const stream of this.#open.values()) stream.destroy();
  }

  #stream(name: string, direction: number): Socket | undefined {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    const path = join(this.#directory, name);
    if (!existsSync(path)) return undefined;
    const isReader = direction === O_RDONLY;
    const stream = new Socket({
      fd: openSync(path, direction | O_NONBLOCK),
      readable: isReader,
      writable: !isReader,
    });
    stream.on("error", () => {
      // Whoever reads or writes is told.
    });
    this.#open.set(name, stream);
    return stream;
  }
}
