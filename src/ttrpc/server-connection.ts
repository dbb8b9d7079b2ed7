import type { Socket } from "node:net";
import { type Code, RuntimeError } from "../base/errors.ts";
import { abortable } from "../base/scope.ts";
import { toBigInt } from "../gen/int64.ts";
import { ttrpc } from "../gen/ttrpc.js";
import { Channel } from "./channel.ts";
import { type Frame, frameType, requestFlags } from "./frame.ts";
import { checkFieldCount } from "./limits.ts";
import type { BoundMethod, BoundService } from "./service.ts";
import { toStatus } from "./status.ts";

export interface ServerLimits {
  /** Calls open at once per connection, those that wait for the end of a process not counted. */
  readonly maxCalls: number;
  /** Waiting calls open at once per connection. */
  readonly maxWaits: number;
  /** Fields of a request's envelope, metadata entries included. */
  readonly maxEnvelopeFields: number;
  /** Frames of an unknown type that are ignored before the connection is ended. */
  readonly maxIgnoredFrames: number;
  /** Longest time for one frame to arrive once it has begun. */
  readonly frameTimeoutMs: number;
}

export const defaultServerLimits: ServerLimits = {
  maxCalls: 256,
  maxWaits: 4096,
  maxEnvelopeFields: 1024,
  maxIgnoredFrames: 100,
  frameTimeoutMs: 30_000,
};

export interface ServerConnectionOptions {
  readonly services: ReadonlyMap<string, BoundService>;
  readonly limits: ServerLimits;
  /** Told of every error that is a bug of ours and not an answer. */
  readonly onInternalError: (error: unknown) => void;
}

const maxStreamId = 0xffff_ffff;
const maxTimerMs = 2 ** 31 - 1;
const noPayload = new Uint8Array();

/** One client's connection: checks frames, dispatches calls, answers in the order in which they end. */
export class ServerConnection {
  readonly #channel: Channel;
  readonly #options: ServerConnectionOptions;
  readonly #calls = new Set<AbortController>();
  #openCalls = 0;
  #openWaits = 0;
  #lastStreamId = 0;
  #ignoredFrames = 0;
  /** Resolves when the connection has ended. Never rejects. */
  readonly closed: Promise<void>;

  constructor(socket: Socket, options: ServerConnectionOptions) {
    this.#options = options;
    this.#channel = new Channel(socket, {
      onFrame: (frame) => this.#receive(frame),
      frameTimeoutMs: options.limits.frameTimeoutMs,
    });
    this.closed = this.#channel.closed.then(() => {
      const reason = new RuntimeError("canceled", "Cannot finish the call: its connection has ended");
      for (const call of this.#calls) call.abort(reason);
    });
  }

  /** Ends the connection once what was answered has been written; open calls are aborted. */
  end(): void {
    this.#channel.end();
  }

  destroy(): void {
    this.#channel.destroy();
  }

  #receive(frame: Frame): void {
    if (frame.type === frameType.data) {
      this.#refuse(
        frame,
        "invalid_argument",
        `Cannot take data for stream ${frame.streamId}: it is not open`,
      );
    } else if (frame.type === frameType.request) {
      this.#receiveRequest(frame);
    } else if (++this.#ignoredFrames > this.#options.limits.maxIgnoredFrames) {
      this.#channel.destroy();
    }
  }

  #receiveRequest(frame: Frame): void {
    const { streamId } = frame;
    if (frame.data === undefined) {
      this.#acceptStreamId(streamId);
      this.#refuse(frame, "resource_exhausted", "Cannot take a request: its frame is larger than 4 MiB");
    } else if (streamId % 2 === 0) {
      this.#refuse(
        frame,
        "invalid_argument",
        `Cannot open stream ${streamId}: stream ids of a client must be odd`,
      );
    } else if (!this.#acceptStreamId(streamId)) {
      this.#refuse(
        frame,
        "invalid_argument",
        `Cannot open stream ${streamId}: stream ids must increment, the last one was ${this.#lastStreamId}`,
      );
      this.#endWhenExhausted();
    } else if ((frame.flags & (requestFlags.remoteOpen | requestFlags.remoteClosed)) !== 0) {
      this.#refuse(frame, "unimplemented", "Cannot open a stream: only unary calls are served");
    } else {
      this.#dispatch(streamId, frame.data);
    }
  }

  /** Ends a connection on which no id is left that the client could use, once its calls are answered. */
  #endWhenExhausted(): void {
    if (this.#lastStreamId === maxStreamId && this.#calls.size === 0) this.#channel.end();
  }

  #acceptStreamId(streamId: number): boolean {
    if (streamId <= this.#lastStreamId) return false;
    this.#lastStreamId = streamId;
    return true;
  }

  #dispatch(streamId: number, data: Buffer): void {
    let request: ttrpc.Request.$Shape;
    let method: BoundMethod;
    try {
      request = this.#decode(data);
      method = this.#find(request.service ?? "", request.method ?? "");
      this.#checkRoom(method);
    } catch (error) {
      this.#answerError(streamId, error);
      return;
    }
    void this.#run(streamId, method, request);
  }

  #decode(data: Buffer): ttrpc.Request.$Shape {
    try {
      checkFieldCount(data, this.#options.limits.maxEnvelopeFields, "a request");
      return ttrpc.Request.decode(data);
    } catch (cause) {
      if (cause instanceof RuntimeError) throw cause;
      throw new RuntimeError("invalid_argument", "Cannot unmarshal the request", { cause });
    }
  }

  #find(serviceName: string, methodName: string): BoundMethod {
    const service = this.#options.services.get(serviceName);
    if (service === undefined)
      throw new RuntimeError("unimplemented", `service ${serviceName.slice(0, 200)}`);
    const method = service.methods.get(methodName);
    if (method === undefined) throw new RuntimeError("unimplemented", `method ${methodName.slice(0, 200)}`);
    return method;
  }

  #checkRoom(method: BoundMethod): void {
    const { maxCalls, maxWaits } = this.#options.limits;
    const [open, most] = method.waits ? [this.#openWaits, maxWaits] : [this.#openCalls, maxCalls];
    if (open < most) return;
    throw new RuntimeError(
      "resource_exhausted",
      `Cannot take another call: ${open} of ${most} are open here`,
    );
  }

  /** Runs one call to its end. Never rejects. */
  async #run(streamId: number, method: BoundMethod, request: ttrpc.Request.$Shape): Promise<void> {
    const controller = new AbortController();
    const timeoutMs = Number(toBigInt(request.timeoutNano) / 1_000_000n);
    const timer = toBigInt(request.timeoutNano) > 0n ? startDeadline(controller, timeoutMs) : undefined;
    this.#calls.add(controller);
    this.#count(method, 1);
    const work = method.run(request.payload ?? noPayload, { signal: controller.signal });
    try {
      // The caller is answered at its deadline also by a handler that does not end then; it counts until it ends.
      this.#answer(streamId, await abortable(work, controller.signal));
    } catch (error) {
      this.#answerError(streamId, error);
    } finally {
      clearTimeout(timer);
      await work.catch(() => {});
      this.#calls.delete(controller);
      this.#count(method, -1);
      this.#endWhenExhausted();
    }
  }

  #count(method: BoundMethod, change: 1 | -1): void {
    if (method.waits) this.#openWaits += change;
    else this.#openCalls += change;
  }

  #answer(streamId: number, payload: Uint8Array): void {
    this.#send(streamId, ttrpc.Response.encode({ payload }).finish());
  }

  #answerError(streamId: number, error: unknown): void {
    if (!(error instanceof RuntimeError) || error.code === "internal") this.#options.onInternalError(error);
    this.#send(streamId, ttrpc.Response.encode({ status: toStatus(error) }).finish());
  }

  #refuse(frame: Frame, code: Code, message: string): void {
    this.#answerError(frame.streamId, new RuntimeError(code, message));
  }

  #send(streamId: number, bytes: Uint8Array): void {
    this.#channel.send({ streamId, type: frameType.response, flags: 0 }, bytes);
  }
}

function startDeadline(controller: AbortController, timeoutMs: number): NodeJS.Timeout {
  return setTimeout(
    () => {
      controller.abort(
        new RuntimeError("deadline_exceeded", `Cannot finish the call: no result within ${timeoutMs} ms`),
      );
    },
    Math.min(timeoutMs, maxTimerMs),
  );
}
