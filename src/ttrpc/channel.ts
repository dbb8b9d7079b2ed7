import type { Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { encodeFrame, type Frame, FrameDecoder, type FrameHeader, maxDataLength } from "./frame.ts";

/** Longest time for one frame to arrive once it has begun. Between frames a connection may be silent for days. */
const defaultFrameTimeoutMs = 30_000;

export interface ChannelOptions {
  readonly onFrame: (frame: Frame) => void;
  readonly frameTimeoutMs?: number;
}

/**
 * Frames over one connected socket. It owns the socket.
 *
 * The peer that does not read what it asked for is not read from either, so that answers do not pile up here.
 */
export class Channel {
  readonly #socket: Socket;
  readonly #options: ChannelOptions;
  readonly #decoder = new FrameDecoder();
  #frameTimer: NodeJS.Timeout | undefined;
  /** Resolves when the connection has ended, whoever ended it. Never rejects. */
  readonly closed: Promise<void>;

  constructor(socket: Socket, options: ChannelOptions) {
    this.#socket = socket;
    this.#options = options;
    this.closed = new Promise((resolve) => {
      socket.once("close", () => {
        clearTimeout(this.#frameTimer);
        resolve();
      });
    });
    socket.on("error", () => {
      // "close" follows; who waits for an answer learns it there.
    });
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("drain", () => socket.resume());
  }

  /**
   * Sends a frame; a connection that has ended swallows it.
   *
   * @throws resource_exhausted  `data` is larger than a frame may be
   */
  send(header: FrameHeader, data: Uint8Array): void {
    if (data.length > maxDataLength) {
      throw new RuntimeError(
        "resource_exhausted",
        `Cannot send a message of ${data.length} bytes: a frame holds at most ${maxDataLength}`,
      );
    }
    if (!this.#socket.writable) return;
    if (!this.#socket.write(encodeFrame(header, data))) this.#socket.pause();
  }

  /** Ends the connection after what was sent has been written. */
  end(): void {
    this.#socket.end();
  }

  /** Ends the connection now. */
  destroy(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    for (const frame of this.#decoder.push(chunk)) {
      this.#stopFrameTimer();
      this.#options.onFrame(frame);
      if (this.#socket.destroyed) return;
    }
    if (this.#decoder.midFrame) this.#startFrameTimer();
  }

  #startFrameTimer(): void {
    this.#frameTimer ??= setTimeout(
      () => this.#socket.destroy(),
      this.#options.frameTimeoutMs ?? defaultFrameTimeoutMs,
    );
  }

  #stopFrameTimer(): void {
    clearTimeout(this.#frameTimer);
    this.#frameTimer = undefined;
  }
}
