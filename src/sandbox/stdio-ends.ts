import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import type { GuestStdio } from "../agent-client/agent-types.ts";
import type { Input, Output } from "./fifo.ts";
import type { Stdio, StdioStreams } from "./model.ts";

/** Where the streams of one process lead on the host. */
export interface StdioEnds {
  readonly stdio: Stdio;
  readonly streams?: StdioStreams | undefined;
}

/** What the guest is told of them: which streams there are. */
export function declareStdio({ stdio, streams }: StdioEnds): Omit<GuestStdio, "columns" | "rows"> {
  return {
    stdin: stdio.stdin !== "" || streams?.stdin !== undefined,
    stdout: stdio.stdout !== "" || streams?.stdout !== undefined,
    stderr: !stdio.terminal && (stdio.stderr !== "" || streams?.stderr !== undefined),
    terminal: stdio.terminal,
  };
}

/** A stream of this program as the input of a process. */
export function streamInput(stream: Readable): Input {
  return {
    stream,
    // Its end is its writer's to say.
    release: () => {},
    close: () => stream.destroy(),
  };
}

/** A stream of this program as the output of a process. */
export function streamOutput(stream: Writable): Output {
  stream.on("error", () => {
    // Its reader has gone: the process goes on, its output is dropped.
  });
  return {
    stream,
    mayKeep: true,
    finish: async () => {
      if (stream.destroyed || stream.writableFinished) return;
      const done = Promise.race([once(stream, "finish"), once(stream, "close")]);
      stream.end();
      await done.catch(() => {});
    },
    // What was written to its end belongs to its reader, who may not have read it yet.
    close: () => {
      if (!stream.writableFinished) stream.destroy();
    },
  };
}
