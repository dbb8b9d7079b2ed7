import type { Duplex } from "node:stream";
import { type Code, RuntimeError } from "../../base/errors.ts";
import { foreignText } from "../../base/log.ts";
import { writeWithFd } from "../../base/send-fd.ts";
import { abortable, scope } from "../../base/scope.ts";

/*
 * QMP in short (docs/interop/qmp-spec in QEMU's source): one JSON object per line. The server greets with
 * {"QMP": …}; after {"execute": "qmp_capabilities"} commands {"execute", "arguments", "id"} are answered with
 * {"return", "id"} or {"error": {"class", "desc"}, "id"}. Events {"event", "data", "timestamp"} come at any time.
 */

export interface QmpEvent {
  /** "SHUTDOWN", "RESET", … */
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface ExecuteOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  /** A duplicate of it goes with the command; the caller keeps its own. */
  readonly fd?: number;
}

/** A line longer than this is no answer that we ever ask for; QEMU may be in the hands of its guest. */
const maxLineBytes = 1024 * 1024;
const defaultTimeoutMs = 10_000;
/** For the first command, which is answered when all devices are made: the caller's signal says how long that may take. */
const longestTimerMs = 2 ** 31 - 1;

/** What QEMU's error classes mean to our callers (qapi/error.json); all others say nothing that one could act on. */
const codes: ReadonlyMap<string, Code> = new Map([
  ["CommandNotFound", "unimplemented"],
  ["DeviceNotFound", "not_found"],
  ["DeviceNotActive", "failed_precondition"],
  ["KVMMissingCap", "failed_precondition"],
]);

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: RuntimeError) => void;
  readonly command: string;
}

/** A QMP connection, owned by whoever connected it. Safe for concurrent calls. */
export class Qmp implements Disposable {
  readonly #stream: Duplex;
  readonly #onEvent: (event: QmpEvent) => void;
  readonly #pending = new Map<number, Pending>();
  readonly #greeting = Promise.withResolvers<void>();
  readonly #lines = new LineBuffer(maxLineBytes);
  #lastId = 0;
  /** Why the connection is over; undefined while it lives. */
  #end: string | undefined;
  readonly #ended = Promise.withResolvers<string>();

  private constructor(stream: Duplex, onEvent: (event: QmpEvent) => void) {
    this.#stream = stream;
    this.#onEvent = onEvent;
    // Nobody waits for the greeting any more once connecting has been given up.
    this.#greeting.promise.catch(() => {});
    stream.on("data", (chunk: Buffer) => this.#receive(chunk));
    stream.on("error", (error: Error) => this.#close(`the connection failed (${error.message})`));
    stream.on("close", () => this.#close("the connection ended"));
    stream.on("end", () => this.#close("the connection ended"));
  }

  /**
   * Waits for the greeting and opens the connection for commands. The stream is destroyed when that fails, and by
   * `close`. `onEvent` must not throw.
   *
   * @throws unavailable  the connection ended or does not speak QMP
   */
  static async connect(
    stream: Duplex,
    { signal, onEvent = () => {} }: { signal: AbortSignal; onEvent?: (event: QmpEvent) => void },
  ): Promise<Qmp> {
    const qmp = new Qmp(stream, onEvent);
    try {
      await abortable(qmp.#greeting.promise, signal);
      await qmp.execute("qmp_capabilities", undefined, { signal, timeoutMs: longestTimerMs });
      return qmp;
    } catch (error) {
      qmp.close();
      throw error;
    }
  }

  /**
   * Runs one command and returns its result. After `timeoutMs` or an abort the command may still be carried out.
   *
   * @throws not_found, unimplemented, failed_precondition, internal  QEMU's answer, with its words
   * @throws unavailable        the connection ended, before or meanwhile
   * @throws deadline_exceeded  no answer
   */
  async execute(
    command: string,
    args?: Readonly<Record<string, unknown>>,
    { signal, timeoutMs = defaultTimeoutMs, fd }: ExecuteOptions = {},
  ): Promise<unknown> {
    if (this.#end !== undefined) throw unavailable(command, this.#end);
    signal?.throwIfAborted();
    using limit = scope(signal, timeoutMs, `QMP command "${command}"`);
    const id = ++this.#lastId;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject, command });
    try {
      const line = `${JSON.stringify({ execute: command, arguments: args, id })}\n`;
      if (fd === undefined) this.#stream.write(line);
      else writeWithFd(this.#stream, line, fd);
      return await abortable(promise, limit.signal);
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Resolves with the reason when the connection is over. Never rejects. */
  get ended(): Promise<string> {
    return this.#ended.promise;
  }

  /** Ends the connection; what is pending fails with `unavailable`. Safe to call twice. */
  close(): void {
    this.#close("the connection was closed");
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #close(reason: string): void {
    if (this.#end !== undefined) return;
    this.#end = reason;
    this.#ended.resolve(reason);
    this.#stream.destroy();
    this.#greeting.reject(unavailable("qmp_capabilities", reason));
    for (const { reject, command } of this.#pending.values()) reject(unavailable(command, reason));
  }

  #receive(chunk: Buffer): void {
    if (this.#end !== undefined) return;
    try {
      for (const line of this.#lines.push(chunk)) this.#handle(parseMessage(line));
    } catch (error) {
      this.#close(error instanceof Error ? error.message : String(error));
    }
  }

  #handle(message: Readonly<Record<string, unknown>>): void {
    if (typeof message["event"] === "string") {
      this.#onEvent({ name: message["event"], data: isObject(message["data"]) ? message["data"] : {} });
    } else if ("QMP" in message) {
      this.#greeting.resolve();
    } else if (typeof message["id"] === "number") {
      this.#answer(message["id"], message);
    } else if (isObject(message["error"])) {
      throw new Error(`QEMU answered ${foreignText(JSON.stringify(message["error"]))} to no command`);
    }
  }

  #answer(id: number, message: Readonly<Record<string, unknown>>): void {
    // Missing: it was given up, and the answer comes late.
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    const error = message["error"];
    if (!isObject(error)) return pending.resolve(message["return"]);
    const code = codes.get(String(error["class"])) ?? "internal";
    pending.reject(
      new RuntimeError(
        code,
        `Cannot run QMP command "${pending.command}": ${foreignText(String(error["desc"]))}`,
      ),
    );
  }
}

/** Cuts a byte stream into lines. */
class LineBuffer {
  readonly #maxBytes: number;
  #parts: Buffer[] = [];
  #length = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that `chunk` completes. Throws when one is too long. */
  *push(chunk: Buffer): Generator<string> {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      this.#add(rest.subarray(0, end));
      const line = Buffer.concat(this.#parts).toString("utf8");
      this.#parts = [];
      this.#length = 0;
      rest = rest.subarray(end + 1);
      if (line.trim() !== "") yield line;
    }
    if (rest.length > 0) this.#add(rest);
  }

  #add(part: Buffer): void {
    this.#length += part.length;
    if (this.#length > this.#maxBytes)
      throw new Error(`QEMU sent a line of more than ${this.#maxBytes} bytes`);
    this.#parts.push(part);
  }
}

function parseMessage(line: string): Readonly<Record<string, unknown>> {
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch {
    throw new Error(`QEMU sent a line that is not JSON: ${foreignText(line, 200)}`);
  }
  if (!isObject(message)) throw new Error(`QEMU sent a line that is no object: ${foreignText(line, 200)}`);
  return message;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function unavailable(command: string, reason: string): RuntimeError {
  return new RuntimeError("unavailable", `Cannot run QMP command "${command}": ${reason}`);
}
