import { constants } from "node:os";
import type { Readable, Writable } from "node:stream";
import { codeOf, RuntimeError } from "../base/errors.ts";
import type { Process } from "../sandbox/model.ts";
import { keepAlive } from "../base/keep-alive.ts";
import type { ProcessExit } from "./options.ts";

/** A running process of a sandbox. */
export interface SandboxProcess {
  /** Names it in events. */
  readonly id: string;
  /** What it reads; `end()` is its end of file. */
  readonly stdin: Writable;
  /** What it writes. A process whose output nobody reads stops when some 100 KiB wait. */
  readonly stdout: Readable;
  /** Ends at once for a process with a terminal. */
  readonly stderr: Readable;
  /**
   * Resolves when it has ended. Any number of callers.
   *
   * @throws deadline_exceeded, canceled  it was killed for its time limit or its signal
   * @throws unavailable                  the sandbox has ended under it
   */
  wait(): Promise<ProcessExit>;
  /**
   * Sends a signal, by name ("SIGTERM", the default) or Linux number.
   *
   * @throws not_found         it has ended
   * @throws invalid_argument  there is no such signal
   */
  kill(signal?: NodeJS.Signals | number): Promise<void>;
  /** Sets the size of its terminal in characters; without a terminal nothing happens. @throws unavailable  the VM is gone */
  resize(size: { readonly columns: number; readonly rows: number }): Promise<void>;
}

interface Ends {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
}

/** A started process. `exit` has settled when nothing is left of it. */
export function toSandboxProcess(process: Process, ends: Ends, exit: Promise<ProcessExit>): SandboxProcess {
  return {
    id: process.execId,
    ...ends,
    wait: () => exit,
    kill: (signal = "SIGTERM") => keepAlive(kill(process, signal)),
    resize: ({ columns, rows }) => keepAlive(process.resize(columns, rows)),
  };
}

async function kill(process: Process, signal: NodeJS.Signals | number): Promise<void> {
  const number = typeof signal === "number" ? signal : constants.signals[signal];
  if (!(number >= 1 && number <= 64)) {
    throw new RuntimeError("invalid_argument", `Cannot send signal "${signal}": there is no such signal`);
  }
  await process.kill(number, false);
}

/** Kills it for good; having ended already is success. */
export async function killNow(process: Process): Promise<void> {
  try {
    await process.kill(constants.signals.SIGKILL, false);
  } catch (error) {
    if (codeOf(error) !== "not_found") throw error;
  }
}
