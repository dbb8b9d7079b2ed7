import { closeSync, constants, fstatSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createLog, type Log } from "../base/log.ts";
import { errnoOf } from "../base/errors.ts";

/** Most that one daemon writes to a plain file. */
const maxFileBytes = 16 * 1024 * 1024;

/**
 * The daemon's log goes to the `log` FIFO of its first bundle, which containerd copies to its own log; for a sandbox of
 * our own command line `log` is a plain file. Lines that would block are dropped and counted.
 */
export class LogDestination {
  #fd: number | undefined;
  #dropped = 0;
  #bytesLeft: number;

  constructor(bundle: string) {
    this.#fd = open(join(bundle, "log"));
    const isFile = this.#fd !== undefined && fstatSync(this.#fd).isFile();
    this.#bytesLeft = isFile ? maxFileBytes : Number.POSITIVE_INFINITY;
  }

  /** Lines dropped because nobody read, or the file was full. */
  get dropped(): number {
    return this.#dropped;
  }

  /** What is written later is dropped. */
  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  write(line: string): void {
    if (this.#fd === undefined) return;
    this.#bytesLeft -= Buffer.byteLength(line);
    if (this.#bytesLeft < 0) {
      this.#dropped++;
      return;
    }
    try {
      writeSync(this.#fd, line);
    } catch {
      // EAGAIN: containerd is away and the pipe is full. ENOSPC: nothing can be said anywhere.
      this.#dropped++;
    }
  }
}

/** A log of the wanted level into `destination`. */
export function createDaemonLog(level: string, destination: LogDestination): Log {
  return createLog(level, destination);
}

/** Undefined when there is no place for a log: the sandbox works without one. */
function open(path: string): number | undefined {
  // Read and write: a FIFO opened so never breaks (EPIPE) and never waits for a reader (fifo(7)).
  const flags = constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW;
  try {
    const fd = openSync(path, flags | constants.O_APPEND | constants.O_CREAT, 0o600);
    const stat = fstatSync(fd);
    if (stat.isFIFO() || stat.isFile()) return fd;
    closeSync(fd);
    return undefined;
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return undefined;
  }
}
