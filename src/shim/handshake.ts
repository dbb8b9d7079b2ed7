/**
 * What `start` and the daemon it spawned say to each other over the daemon's fd 3, one JSON line each:
 * helper → daemon `DaemonRequest`; daemon → helper `DaemonReply`; helper → daemon `{}` once everything is noted. A
 * daemon whose helper dies before that ends, as nobody would ever know of it.
 */
import type { Duplex } from "node:stream";
import { type Code, RuntimeError } from "../base/errors.ts";

export interface DaemonRequest {
  readonly namespace: string;
  readonly sandboxId: string;
  /** The container that `start` was called for. */
  readonly containerId: string;
  readonly bundle: string;
  /** It is a bundle of the Sandbox API. */
  readonly isSandbox: boolean;
  readonly socketPath: string;
  /** Where events go; empty: nowhere. */
  readonly ttrpcAddress: string;
  readonly debug: boolean;
  /** Runtime options, the value in base64. */
  readonly options: { readonly typeUrl: string; readonly value: string } | undefined;
}

export type DaemonReply =
  | { readonly tag: "ready" }
  /** Another daemon of the sandbox was faster. */
  | { readonly tag: "taken" }
  | { readonly tag: "failed"; readonly code: Code; readonly message: string };

const maxLineBytes = 16 * 1024 * 1024;

/** Lines of JSON over a stream. */
export class Handshake {
  readonly #stream: Duplex;
  readonly #lines: AsyncIterator<string>;

  constructor(stream: Duplex) {
    this.#stream = stream;
    this.#lines = readLines(stream);
    stream.on("error", () => {
      // The other side is gone; receive() says so.
    });
  }

  send(message: object): void {
    this.#stream.write(`${JSON.stringify(message)}\n`);
  }

  /** The next message, or undefined when the other side is gone. */
  async receive<T>(): Promise<T | undefined> {
    const line = await this.#lines.next();
    return line.done === true ? undefined : (JSON.parse(line.value) as T);
  }

  /** Ends it after what was sent has been written. */
  async end(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#stream.once("close", resolve);
      this.#stream.end(() => this.#stream.destroy());
      this.#stream.once("error", () => resolve());
    });
  }
}

async function* readLines(stream: Duplex): AsyncGenerator<string> {
  let text = Buffer.alloc(0);
  try {
    for await (const chunk of stream) {
      text = Buffer.concat([text, chunk as Buffer]);
      if (text.length > maxLineBytes) {
        throw new RuntimeError("resource_exhausted", `Cannot take a line of more than ${maxLineBytes} bytes`);
      }
      for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n")) {
        yield text.subarray(0, end).toString("utf8");
        text = text.subarray(end + 1);
      }
    }
  } catch (error) {
    if (error instanceof RuntimeError) throw error;
    // A reset is an end like any other.
  }
}
