import { connect } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { int64 } from "../gen/int64.ts";
import { ttrpc } from "../gen/ttrpc.js";
import { Channel } from "./channel.ts";
import { type Frame, frameType } from "./frame.ts";
import type { Method } from "./method.ts";
import { fromStatus } from "./status.ts";

export interface ConnectOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Also sent to the server as the call's deadline. Absent: wait as long as the connection lives. */
  readonly timeoutMs?: number;
  readonly metadata?: Readonly<Record<string, string>>;
}

interface Pending {
  resolve(payload: Uint8Array): void;
  reject(error: unknown): void;
}

const maxStreamId = 0xffff_ffff;

/** Unary calls over one connection. Any number at once; they end in the order in which the server answers. */
export class TtrpcClient implements AsyncDisposable {
  readonly #channel: Channel;
  readonly #path: string;
  readonly #pending = new Map<number, Pending>();
  #nextStreamId = 1;
  #isClosed = false;
  /** Resolves when the connection has ended, whoever ended it. Never rejects. */
  readonly closed: Promise<void>;

  private constructor(path: string, socket: ReturnType<typeof connect>) {
    this.#path = path;
    this.#channel = new Channel(socket, { onFrame: (frame) => this.#receive(frame) });
    this.closed = this.#channel.closed.then(() => this.#failAll());
  }

  /**
   * Connects to a Unix socket.
   *
   * @throws unavailable        nobody listens there; the cause has the errno
   * @throws deadline_exceeded  no connection within `timeoutMs`
   */
  static async connect(path: string, options: ConnectOptions = {}): Promise<TtrpcClient> {
    options.signal?.throwIfAborted();
    const socket = connect(path);
    const action = `connect to "${path}"`;
    try {
      await limited(options, action, (resolve: (value: undefined) => void, reject) => {
        socket.once("connect", () => resolve(undefined));
        socket.once("error", (cause) => {
          reject(new RuntimeError("unavailable", `Cannot ${action}`, { cause }));
        });
      });
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return new TtrpcClient(path, socket);
  }

  /**
   * Makes one call. When it is given up, a late answer is ignored.
   *
   * @throws unavailable        the connection ended
   * @throws deadline_exceeded  no answer within `timeoutMs`
   * @throws the kind of the status that the server answered
   */
  async call<RequestIn, ResponseOut>(
    service: string,
    method: Method<RequestIn, unknown, never, ResponseOut>,
    request: RequestIn,
    options: CallOptions = {},
  ): Promise<ResponseOut> {
    options.signal?.throwIfAborted();
    if (this.#isClosed || this.#nextStreamId > maxStreamId) throw this.#lost();
    const streamId = this.#nextStreamId;
    this.#nextStreamId += 2;
    const bytes = ttrpc.Request.encode({
      service,
      method: method.name,
      payload: method.request.encode(request).finish(),
      timeoutNano: int64(BigInt(Math.round((options.timeoutMs ?? 0) * 1e6))),
      metadata: Object.entries(options.metadata ?? {}).map(([key, value]) => ({ key, value })),
    }).finish();
    try {
      const payload = await limited<Uint8Array>(
        options,
        `call ${service}/${method.name}`,
        (resolve, reject) => {
          this.#pending.set(streamId, { resolve, reject });
          this.#channel.send({ streamId, type: frameType.request, flags: 0 }, bytes);
        },
      );
      return method.response.decode(payload);
    } finally {
      this.#pending.delete(streamId);
    }
  }

  /** Ends the connection; calls that are open fail with `unavailable`. Safe to call twice. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#channel.destroy();
    await this.closed;
  }

  #receive(frame: Frame): void {
    const pending = this.#pending.get(frame.streamId);
    if (pending === undefined || frame.type !== frameType.response) return;
    if (frame.data === undefined) {
      pending.reject(
        new RuntimeError("resource_exhausted", "Cannot take the answer: it is larger than a frame may be"),
      );
      return;
    }
    try {
      const { status, payload } = ttrpc.Response.decode(frame.data);
      if (status?.code) pending.reject(fromStatus({ code: status.code, message: status.message ?? "" }));
      else pending.resolve(payload);
    } catch (cause) {
      pending.reject(new RuntimeError("internal", "Cannot decode the answer", { cause }));
    }
  }

  #failAll(): void {
    this.#isClosed = true;
    for (const pending of this.#pending.values()) pending.reject(this.#lost());
    this.#pending.clear();
  }

  #lost(): RuntimeError {
    return new RuntimeError(
      "unavailable",
      `Cannot get an answer from "${this.#path}": the connection has ended`,
    );
  }
}

/** A promise that also ends with the signal or the time limit, and leaves neither timer nor listener behind. */
async function limited<T>(
  { signal, timeoutMs }: ConnectOptions,
  action: string,
  start: (resolve: (value: T) => void, reject: (error: unknown) => void) => void,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  try {
    return await new Promise<T>((resolve, reject) => {
      onAbort = () => reject(signal?.reason);
      signal?.addEventListener("abort", onAbort, { once: true });
      if (timeoutMs !== undefined) {
        timer = setTimeout(() => {
          reject(new RuntimeError("deadline_exceeded", `Cannot ${action}: no answer within ${timeoutMs} ms`));
        }, timeoutMs);
      }
      start(resolve, reject);
    });
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener("abort", onAbort);
  }
}
