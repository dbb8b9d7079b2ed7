/**
 * Opening the caller's ends of stdio. A FIFO is always opened non-blocking (a blocking open would occupy one of the few
 * threads of libuv), and each side also holds the opposite end, so that a client may go away and come back
 * (containerd restarts) without the process seeing EOF or EPIPE.
 */
import { closeSync, constants, createWriteStream, fstatSync, lstatSync, mkdirSync, openSync } from "node:fs";
import { Socket } from "node:net";
import { dirname } from "node:path";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { makeDirect } from "../base/direct-reads.ts";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";

const { O_RDONLY, O_WRONLY, O_NONBLOCK, O_NOFOLLOW, O_APPEND, O_CREAT } = constants;

/** How often we look whether the reader of a FIFO has come; FIFOs do not announce it (fifo(7)). */
const readerRetryMs = 5;

export interface Input {
  /** Emits what the clients write; ends when we have let go (`release`) and every writer has closed. */
  readonly stream: Readable;
  /** Lets go of our own writing end. Idempotent. */
  release(): void;
  /** Ends it at once. Idempotent. */
  close(): void;
}

export interface Output {
  /** Where the bytes go. Full, it asks to wait for "drain". */
  readonly stream: Writable;
  /** The stream may keep what was written to it longer than until "drain". */
  readonly mayKeep: boolean;
  /** Flushes and closes. Resolves when the last byte is in the FIFO or file, or when that is impossible. */
  finish(): Promise<void>;
  /** Closes at once; unwritten bytes are lost. Idempotent. */
  close(): void;
}

/** Opens the FIFO that a client writes stdin into. Never blocks. */
export function openInput(path: string): Input {
  const reader = openChecked(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
  if (!fstatSync(reader).isFIFO()) {
    closeSync(reader);
    throw new RuntimeError("invalid_argument", `Cannot open stdin "${path}": expected a FIFO`);
  }
  let hold: number | undefined = openOtherEnd(reader, O_WRONLY);
  const release = () => {
    if (hold !== undefined) closeSync(hold);
    hold = undefined;
  };
  const stream = makeDirect(
    (direct) => new Socket({ ...direct, fd: reader, readable: true, writable: false }),
  );
  return {
    stream,
    release,
    close: () => {
      release();
      stream.destroy();
    },
  };
}

/**
 * Opens where stdout or stderr goes: a FIFO (waits for its reader), a character device, a file to append to, or
 * `file:///path` (created with its parents).
 *
 * @throws not_found         there is nothing at the path
 * @throws invalid_argument  a directory, a symbolic link, a socket
 * @throws unimplemented     another scheme (`binary://`)
 */
export async function openOutput(uri: string, signal: AbortSignal): Promise<Output> {
  const file = filePathOf(uri);
  if (file !== undefined) return fileOutput(file);
  const path = uri.startsWith("fifo://") ? uri.slice("fifo://".length) : uri;
  const writer = await openWriter(path, signal);
  const status = fstatSync(writer);
  if (!status.isFIFO() && !status.isFile() && !status.isCharacterDevice()) {
    closeSync(writer);
    throw new RuntimeError(
      "invalid_argument",
      `Cannot open output "${path}": expected a FIFO, a file or a character device`,
    );
  }
  // Keeps the FIFO from breaking when its reader goes away; never read from.
  const hold = status.isFIFO() ? openOtherEnd(writer, O_RDONLY) : undefined;
  return asOutput(writer, hold);
}

function filePathOf(uri: string): string | undefined {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//.exec(uri)?.[1];
  if (scheme === undefined || scheme === "fifo") return undefined;
  if (scheme === "file") return parseFileUri(uri);
  throw new RuntimeError(
    "unimplemented",
    `Cannot open output "${uri}": the scheme "${scheme}" is not supported; expected a FIFO's path or file://`,
  );
}

function parseFileUri(uri: string): string {
  try {
    return decodeURIComponent(new URL(uri).pathname);
  } catch (cause) {
    throw new RuntimeError("invalid_argument", `Cannot open output "${uri}": it is not a valid URI`, {
      cause,
    });
  }
}

function fileOutput(path: string): Output {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  } catch (cause) {
    throw cannotOpen(path, cause);
  }
  // Non-blocking for the case that it is a FIFO, where the open itself would wait for a reader.
  const writer = openChecked(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o644);
  if (!fstatSync(writer).isFile()) {
    closeSync(writer);
    throw new RuntimeError("invalid_argument", `Cannot open output "${path}": expected a regular file`);
  }
  return asOutput(writer, undefined);
}

async function openWriter(path: string, signal: AbortSignal): Promise<number> {
  for (;;) {
    signal.throwIfAborted();
    try {
      return openSync(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_APPEND);
    } catch (error) {
      // ENXIO: a FIFO without a reader yet. Sockets and devices without a driver have it too, for ever.
      const isWaiting = errnoOf(error) === "ENXIO" && (lstatOf(path)?.isFIFO() ?? true);
      if (!isWaiting) throw cannotOpen(path, error);
    }
    await sleep(readerRetryMs, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}

function lstatOf(path: string) {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** Opens the same FIFO once more, whatever its path names by now. On failure `fd` is closed. */
function openOtherEnd(fd: number, flags: number): number {
  try {
    return openSync(`/proc/self/fd/${fd}`, flags | O_NONBLOCK);
  } catch (cause) {
    closeSync(fd);
    throw new RuntimeError(systemErrorCode(cause), "Cannot open the other end of a FIFO", { cause });
  }
}

function openChecked(path: string, flags: number, mode?: number): number {
  try {
    return openSync(path, flags, mode);
  } catch (error) {
    throw cannotOpen(path, error);
  }
}

function cannotOpen(path: string, cause: unknown): RuntimeError {
  const isOfOtherKind = ["ELOOP", "EISDIR", "ENXIO", "ERR_INVALID_ARG_VALUE"].includes(errnoOf(cause) ?? "");
  const code = isOfOtherKind ? "invalid_argument" : systemErrorCode(cause);
  return new RuntimeError(code, `Cannot open stdio "${path}"`, { cause });
}

function asOutput(writer: number, hold: number | undefined): Output {
  const isFifo = hold !== undefined;
  // A socket writes to a FIFO without occupying a thread; files and devices have no readiness to wait for.
  const options = { fd: writer, readable: false, writable: true, highWaterMark: 1 };
  const stream: Writable = isFifo ? new Socket(options) : createWriteStream("", options);
  const closed = new Promise<void>((resolve) => stream.once("close", () => resolve()));
  stream.on("error", () => {
    // The destination is gone (file system full, device removed): the process goes on, its output is dropped.
  });
  let held = hold;
  void closed.then(() => {
    if (held !== undefined) closeSync(held);
    held = undefined;
  });
  return {
    stream,
    mayKeep: false,
    finish: async () => {
      if (stream.destroyed) return closed;
      stream.end(() => stream.destroy());
      await closed;
    },
    close: () => stream.destroy(),
  };
}
