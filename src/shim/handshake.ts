/**
 * What the launcher (launcher/src/start.rs) and the daemon that it spawns say to each other over the daemon's fd 3, one JSON line
 * each: launcher → daemon `DaemonRequest`; daemon → launcher `DaemonReply`; launcher → daemon `{}` before it prints the answer. A
 * daemon whose launcher dies before that ends, as nobody would ever know of it.
 */
import type { Duplex } from "node:stream";
import { RuntimeError } from "../base/errors.ts";

export interface DaemonRequest {
  /** What came in on stdin of `start`, in hex. */
  readonly stdin: string;
  /** Where a daemon that serves many sandboxes shall listen. */
  readonly nodeSocket?: string | null;
}

export type DaemonReply =
  /** A daemon serves, this one or another. `answer` is what to print, in hex. */
  { readonly tag: "ready"; readonly answer: string } | { readonly tag: "failed"; readonly message: string };

const maxLineBytes = 32 * 1024 * 1024;

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
