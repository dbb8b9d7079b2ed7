import type { Socket } from "node:net";
import type { Writable } from "node:stream";
import { asError, describe, RuntimeError } from "../base/errors.ts";
import { dropBytes, onBytes } from "../base/direct-reads.ts";
import type { Log } from "../base/log.ts";
import { settleAll } from "../base/settle.ts";
import { endFrame, FrameDecoder, frameParts } from "../agent-client/frames.ts";
import type { StreamName } from "../agent-client/streams.ts";
import { type Input, openInput, openOutput, type Output } from "./fifo.ts";
import type { SandboxObserver } from "./observer.ts";
import { type StdioEnds, streamInput, streamOutput } from "./stdio-ends.ts";

/** Told of the bytes that were copied. */
type CopyObserver = Pick<SandboxObserver, "onBytes">;

/** Opens a stdio stream of the process in the guest. */
export type OpenGuestStream = (name: StreamName, signal: AbortSignal) => Promise<Socket>;

interface NamedOutput {
  readonly name: StreamName;
  readonly output: Output;
}

/**
 * The stdio of one process: the caller's FIFOs or files on one side, one guest stream each on the other.
 *
 * Each stream has its own back-pressure: a full destination pauses its guest stream and nothing else.
 */
export class ProcessIo {
  readonly #log: Log;
  readonly #observer: CopyObserver | undefined;
  readonly #input: Input | undefined;
  readonly #outputs: readonly NamedOutput[];
  readonly #guestStreams = new Set<Socket>();
  #exitSeen: Promise<unknown> = Promise.resolve();
  #finished: Promise<unknown> = Promise.resolve();
  #connected: Promise<void> = Promise.resolve();
  #isClosed = false;

  private constructor(
    log: Log,
    observer: CopyObserver | undefined,
    input: Input | undefined,
    outputs: readonly NamedOutput[],
  ) {
    this.#log = log;
    this.#observer = observer;
    this.#input = input;
    this.#outputs = outputs;
  }

  /** Opens the caller's side; waits for the readers of FIFOs. On failure nothing stays open. */
  static async open(
    { stdio, streams }: StdioEnds,
    log: Log,
    signal: AbortSignal,
    observer?: CopyObserver,
  ): Promise<ProcessIo> {
    if (streams !== undefined) {
      const { stdin, stdout, stderr } = streams;
      const outputs = [
        { name: "stdout", stream: stdout } as const,
        { name: "stderr", stream: stdio.terminal ? undefined : stderr } as const,
      ].flatMap(({ name, stream }) => (stream === undefined ? [] : [{ name, output: streamOutput(stream) }]));
      return new ProcessIo(log, observer, stdin && streamInput(stdin), outputs);
    }
    const opened: NamedOutput[] = [];
    let input: Input | undefined;
    // When one cannot be opened, the wait for the reader of the other one ends.
    const failure = new AbortController();
    const either = AbortSignal.any([signal, failure.signal]);
    const openNamed = async (name: StreamName, uri: string) => {
      try {
        opened.push({ name, output: await openOutput(uri, either) });
      } catch (error) {
        failure.abort(error);
        throw error;
      }
    };
    try {
      if (stdio.stdin !== "") input = openInput(stdio.stdin);
      // One file for both must be opened twice: each stream closes its own.
      const wanted: [StreamName, string][] = [["stdout", stdio.stdout]];
      if (!stdio.terminal) wanted.push(["stderr", stdio.stderr]);
      await settleAll(wanted.filter(([, uri]) => uri !== "").map(([name, uri]) => openNamed(name, uri)));
      return new ProcessIo(log, observer, input, opened);
    } catch (error) {
      input?.close();
      for (const { output } of opened) output.close();
      throw error;
    }
  }

  /**
   * Connects both sides and copies in the background until each stream ends.
   *
   * @throws unavailable  the guest refused a stream; everything is closed then
   */
  connect(openGuestStream: OpenGuestStream, signal: AbortSignal): Promise<void> {
    const copies = this.#connect(openGuestStream, signal);
    const all = (ends: (copy: OutputCopy) => Promise<void>) =>
      copies.then((connected) => Promise.all(connected.map(ends))).catch(() => {});
    this.#exitSeen = all(({ exitSeen }) => exitSeen);
    this.#finished = all(({ finished }) => finished);
    this.#connected = copies.then(() => {});
    this.#connected.catch(() => {
      // Everything is closed. Whoever starts the process learns of it.
    });
    return this.#connected;
  }

  /** Settles as the last `connect` has. */
  get connected(): Promise<void> {
    return this.#connected;
  }

  async #connect(openGuestStream: OpenGuestStream, signal: AbortSignal): Promise<readonly OutputCopy[]> {
    const dial = async (name: StreamName) => {
      const socket = await openGuestStream(name, signal);
      if (this.#isClosed) {
        socket.destroy();
        throw new RuntimeError("canceled", `Cannot connect ${name}: the stdio of the process was closed`);
      }
      this.#guestStreams.add(socket);
      socket.once("close", () => this.#guestStreams.delete(socket));
      return socket;
    };
    try {
      const copies = await Promise.all(
        this.#outputs.map(async ({ name, output }) =>
          copyOutput(await dial(name), output, this.#count(name), this.#failed(name)),
        ),
      );
      if (this.#input !== undefined) {
        copyInput(this.#input, await dial("stdin"), this.#count("stdin"), this.#failed("stdin"));
      }
      return copies;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Resolves when everything that the process itself wrote has been written out. Never rejects. */
  get exitSeen(): Promise<unknown> {
    return this.#exitSeen;
  }

  /** Resolves when every output has ended and was closed. Never rejects. */
  get finished(): Promise<unknown> {
    return this.#finished;
  }

  closeStdin(): void {
    this.#input?.release();
  }

  /** The process is gone: nobody reads stdin any more. */
  endStdin(): void {
    this.#input?.close();
  }

  /** Ends everything at once. Idempotent. */
  close(): void {
    this.#isClosed = true;
    this.#input?.close();
    for (const socket of this.#guestStreams) socket.destroy();
    for (const { output } of this.#outputs) output.close();
  }

  #count(name: StreamName): (bytes: number) => void {
    return (bytes) => this.#observer?.onBytes(name, bytes);
  }

  #failed(name: StreamName): (error: unknown) => void {
    return (error) => this.#log.warn({ stream: name, error: describe(error) }, "stdio stream ended early");
  }
}

interface OutputCopy {
  readonly exitSeen: Promise<void>;
  readonly finished: Promise<void>;
}

function copyOutput(
  source: Socket,
  output: Output,
  count: (bytes: number) => void,
  failed: (error: unknown) => void,
): OutputCopy {
  const exitSeen = Promise.withResolvers<void>();
  const finished = Promise.withResolvers<void>();
  const destination = output.stream;
  // A write of nothing completes after everything before it: that is when the process's own output is out.
  const flush = () => {
    if (destination.destroyed || destination.writableLength === 0) exitSeen.resolve();
    else destination.write("", () => exitSeen.resolve());
  };
  const decoder = new FrameDecoder({
    onData: (payload) => {
      count(payload.length);
      if (!destination.destroyed) destination.write(output.mayKeep ? Buffer.from(payload) : payload);
    },
    onExitMark: flush,
    onEnd: () => source.destroy(),
  });
  destination.on("drain", () => source.resume());
  destination.once("close", () => source.resume());
  source.on("error", failed);
  source.once("close", () => {
    void output.finish().then(() => {
      exitSeen.resolve();
      finished.resolve();
    });
  });
  onBytes(source, (chunk) => {
    // One system call for all payloads of the chunk.
    destination.cork();
    try {
      decoder.push(chunk);
    } catch (error) {
      source.destroy(asError(error));
    } finally {
      destination.uncork();
    }
    if (isFull(destination)) source.pause();
  });
  if (!isFull(destination)) source.resume();
  return { exitSeen: exitSeen.promise, finished: finished.promise };
}

function copyInput(
  input: Input,
  destination: Socket,
  count: (bytes: number) => void,
  failed: (error: unknown) => void,
): void {
  const source = input.stream;
  onBytes(source, (chunk) => {
    count(chunk.length);
    destination.cork();
    for (const part of frameParts(chunk)) destination.write(part);
    destination.uncork();
    if (isFull(destination)) source.pause();
  });
  destination.on("drain", () => source.resume());
  // Said in band; the guest closes. A half-close means different things to different vsock backends.
  source.once("end", () => destination.write(endFrame));
  source.on("error", failed);
  // The guest closes a stdin whose process does not read any more. What clients still write is dropped, so that
  // they do not block for ever.
  destination.on("error", failed);
  destination.once("close", () => {
    dropBytes(source);
  });
  // Nothing but a close is expected from the other side, and only a flowing socket notices it.
  destination.resume();
}

/** "drain" follows. Of what is ours it is with the first byte that waits: the memory behind it is the source's. */
function isFull(destination: Writable): boolean {
  return !destination.destroyed && destination.writableLength >= destination.writableHighWaterMark;
}
