import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { PassThrough, Readable } from "node:stream";
import { asError, codeOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import type { ContainerUser } from "../image/users.ts";
import { checkGuestPath } from "./check.ts";
import type { CommandHost } from "./command.ts";
import { keepAlive } from "../base/keep-alive.ts";
import type { CopyInOptions, CopyOutOptions, ReadFileOptions, WriteFileOptions } from "./options.ts";
import { BoundedOutput } from "./output.ts";
import { tarOf } from "./tar.ts";
import { transfer } from "./transfer.ts";
import { untar } from "./untar.ts";

/** Where files are moved, and who owns what is made. */
export interface FileHost extends CommandHost {
  readonly owner: (user: string | undefined) => Promise<ContainerUser>;
}

const defaultMaxReadBytes = 64 * 1024 ** 2;
const defaultCopyOut = { maxBytes: 1024 ** 3, maxEntries: 100_000, unsafeLinks: "refuse" } as const;

export async function readFile(host: FileHost, path: string, options: ReadFileOptions): Promise<Buffer> {
  const { maxBytes = defaultMaxReadBytes, signal } = options;
  const excess = new AbortController();
  const output = new BoundedOutput(maxBytes, () => excess.abort());
  const ended = signal === undefined ? excess.signal : AbortSignal.any([signal, excess.signal]);
  const read = { operation: "read", path: checkGuestPath(path), stdout: output, signal: ended } as const;
  // What is too large may have come whole by the time that it is ended.
  await transfer(host, read).catch((error: unknown) => {
    if (!excess.signal.aborted) throw error;
  });
  if (excess.signal.aborted) {
    throw new RuntimeError(
      "resource_exhausted",
      `Cannot read ${JSON.stringify(path)} of the sandbox: it has more than ${maxBytes} bytes (maxBytes)`,
    );
  }
  return output.bytes;
}

export async function writeFile(
  host: FileHost,
  path: string,
  data: string | Uint8Array | Readable,
  { mode = 0o644, user, signal }: WriteFileOptions,
): Promise<void> {
  const stdin = data instanceof Readable ? data : Readable.from(data.length === 0 ? [] : [Buffer.from(data)]);
  const owner = await host.owner(user);
  await transfer(host, { operation: "write", path: checkGuestPath(path), mode, owner, stdin, signal });
}

export async function copyIn(
  host: FileHost,
  source: string,
  target: string,
  options: CopyInOptions,
): Promise<void> {
  checkGuestPath(target);
  const status = await stat(source).catch((cause: unknown) => {
    throw new RuntimeError(systemErrorCode(cause), `Cannot copy "${source}" into the sandbox`, { cause });
  });
  if (status.isDirectory()) return await copyInTar(host, tarOf(source), target, options);
  if (status.isFile()) {
    return await writeFile(host, target, createReadStream(source), { ...options, mode: status.mode & 0o777 });
  }
  throw new RuntimeError(
    "invalid_argument",
    `Cannot copy "${source}" into the sandbox: it is neither a file nor a directory`,
  );
}

export async function copyInTar(
  host: FileHost,
  tar: Readable,
  target: string,
  { user, signal }: CopyInOptions,
): Promise<void> {
  const owner = await host.owner(user);
  await transfer(host, { operation: "extract", path: checkGuestPath(target), owner, stdin: tar, signal });
}

export async function copyOut(
  host: FileHost,
  source: string,
  target: string,
  options: CopyOutOptions,
): Promise<void> {
  const { signal, ...limits } = options;
  const stop = new AbortController();
  const ended = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
  const stdout = new PassThrough();
  const archive = { operation: "archive", path: checkGuestPath(source), stdout, signal: ended } as const;
  const moved = transfer(host, archive);
  const written = untar(stdout, target, { ...defaultCopyOut, ...limits }).catch((error: unknown) => {
    stop.abort(error);
    throw error;
  });
  const [move, write] = await Promise.allSettled([moved, written]);
  // A failed write ends the move, and a failed move breaks the archive: the one that failed by itself is the reason.
  const isEndedByUs = stop.signal.aborted && signal?.aborted !== true;
  if (move.status === "rejected" && !(isEndedByUs && codeOf(move.reason) === "canceled")) throw move.reason;
  if (write.status === "rejected") throw write.reason;
}

export function copyOutTar(host: FileHost, source: string, signal: AbortSignal | undefined): Readable {
  const path = checkGuestPath(source);
  const stdout = new PassThrough();
  const out = new PassThrough();
  // It ends when it is known to be whole.
  stdout.pipe(out, { end: false });
  out.once("close", () => stdout.destroy());
  keepAlive(transfer(host, { operation: "archive", path, stdout, signal })).then(
    () => out.end(),
    (error: unknown) => out.destroy(asError(error)),
  );
  return out;
}
