import type { Socket } from "node:net";
import type { StreamName } from "../agent-client/streams.ts";
import { scope } from "../base/scope.ts";
import type { OpenGuestStream } from "./io.ts";
import { declareStdio, type StdioEnds } from "./stdio-ends.ts";

/** The guest's ends of a process's streams, dialled before they are needed. Those that nobody takes are closed with it. */
export class DialledStreams implements Disposable {
  readonly #waiting = new Map<StreamName, Promise<Socket>>();
  readonly #controller = new AbortController();

  /** @param timeoutMs  for the dialling */
  constructor(ends: StdioEnds, open: OpenGuestStream, timeoutMs: number) {
    const limit = scope(this.#controller.signal, timeoutMs, "the connection to a process's streams");
    const declared = declareStdio(ends);
    for (const name of ["stdin", "stdout", "stderr"] as const) {
      if (declared[name]) this.#waiting.set(name, open(name, limit.signal).then(ignoreErrors));
    }
    // Whoever takes one learns of its failure.
    void Promise.allSettled(this.#waiting.values()).then(() => limit[Symbol.dispose]());
  }

  /** Hands one of them to the caller, once. */
  readonly take: OpenGuestStream = (name) => {
    const socket = this.#waiting.get(name);
    this.#waiting.delete(name);
    return socket ?? Promise.reject(new Error(`There is no ${name} that waits`));
  };

  [Symbol.dispose](): void {
    this.#controller.abort(new Error("Nobody needs the streams any more"));
    for (const waiting of this.#waiting.values()) {
      void waiting.then(
        (socket) => socket.destroy(),
        () => {},
      );
    }
    this.#waiting.clear();
  }
}

/** Those of one that waits, for which nobody listens yet: whoever takes it finds it closed. */
function ignoreErrors(socket: Socket): Socket {
  return socket.on("error", () => {});
}
