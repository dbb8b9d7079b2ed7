import { randomBytes } from "node:crypto";
import { finished } from "node:stream/promises";
import type { Readable, Writable } from "node:stream";
import { type Code, RuntimeError } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import type { FileTransferRequest, StdioStreams } from "../sandbox/model.ts";
import type { CommandHost } from "./command.ts";
import { BoundedOutput } from "./output.ts";
import { killNow } from "./process.ts";

export interface Transfer extends Pick<FileTransferRequest, "operation" | "path"> {
  readonly mode?: number;
  readonly owner?: { readonly uid: number; readonly gid: number };
  readonly stdin?: Readable;
  readonly stdout?: Writable;
  readonly signal?: AbortSignal | undefined;
}

const maxMessageBytes = 4096;
const defaultMode = 0o644;

/** Codes that the guest may say; anything else is "internal". */
const guestCodes: ReadonlySet<string> = new Set<Code>([
  "invalid_argument",
  "not_found",
  "permission_denied",
  "resource_exhausted",
]);

/**
 * Has the guest read or write files of the sandbox, and waits until it has and `stdout` has taken everything. Its own streams
 * are destroyed when that fails.
 */
export async function transfer(host: CommandHost, request: Transfer): Promise<void> {
  const { operation, path, stdin, stdout, signal, mode = defaultMode, owner = { uid: 0, gid: 0 } } = request;
  const { container, ended } = host;
  const execId = `f${randomBytes(6).toString("hex")}`;
  const stderr = new BoundedOutput(maxMessageBytes, () => {});
  const streams: StdioStreams = { ...(stdin && { stdin }), ...(stdout && { stdout }), stderr };
  const taken = stdout === undefined ? Promise.resolve() : finished(stdout, { readable: false });
  const given = stdin === undefined ? Promise.resolve() : finished(stdin, { writable: false });
  for (const end of [taken, given]) end.catch(() => {});
  try {
    const reason = ended();
    if (reason !== undefined) throw reason;
    if (signal?.aborted) throw canceled(request, signal);
    const process = await container.transferFiles({ execId, operation, path, mode, ...owner, streams });
    const kill = () => void killNow(process).catch(() => {});
    signal?.addEventListener("abort", kill, { once: true });
    try {
      await container.start(execId);
      // A reader that has gone wants no more of it, and what breaks off shall not look whole.
      let broken: unknown;
      for (const end of [taken, given]) {
        void end.catch((error: unknown) => {
          broken ??= error;
          kill();
        });
      }
      if (signal?.aborted) kill();
      const exited = process.wait().then((exit) => ({ ...exit, broken }));
      const exit = await exited;
      const lost = ended();
      if (lost !== undefined) throw lost;
      if (exit.exitCode !== 0) throw failure(request, { ...exit, words: stderr.text });
      await taken.catch((cause: unknown) => {
        throw failure(request, { exitCode: 0, broken: cause, words: "" });
      });
    } finally {
      signal?.removeEventListener("abort", kill);
      void container.delete(execId).catch(() => {});
    }
  } catch (error) {
    stdin?.destroy();
    stdout?.destroy();
    throw ended() ?? error;
  }
}

interface Failure {
  readonly exitCode: number;
  /** Of the guest, which may be anything. */
  readonly words: string;
  /** Why our end broke off, if it did. */
  readonly broken: unknown;
}

function failure(request: Transfer, { exitCode, words, broken }: Failure): RuntimeError {
  const { operation, path, signal } = request;
  const [, code = "", text = ""] = /^([a-z_]+) (.*)/s.exec(words) ?? [];
  if (guestCodes.has(code)) return new RuntimeError(code as Code, foreignText(text.trim()));
  if (signal?.aborted) return canceled(request, signal);
  const said = words.trim() === "" ? `it ended with ${exitCode}` : foreignText(words.trim());
  const fact = broken === undefined ? said : "its stream broke off";
  return new RuntimeError(
    broken === undefined ? "internal" : "canceled",
    `Cannot ${operation} ${JSON.stringify(path)} in the sandbox: ${fact}`,
    { cause: broken },
  );
}

function canceled({ operation, path }: Transfer, signal: AbortSignal): RuntimeError {
  return new RuntimeError(
    "canceled",
    `Cannot ${operation} ${JSON.stringify(path)} in the sandbox: its signal has aborted`,
    { cause: signal.reason },
  );
}
