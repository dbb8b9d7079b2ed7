import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import type { ExitStatus } from "../sandbox/model.ts";
import type { ProcessIo } from "../client/process-io.ts";
import type { SignalRelay } from "../client/signal-relay.ts";
import type { TaskClient } from "../client/task-client.ts";
import { enterRawMode, followWindowSize } from "./terminal.ts";

export interface AttachOptions {
  readonly client: TaskClient;
  readonly execId: string;
  readonly io: ProcessIo;
  readonly relay: SignalRelay;
  readonly interactive: boolean;
  readonly terminal: boolean;
  /** Aborts when what is left of the output of an ended process is not wanted any more. */
  readonly hurried?: AbortSignal;
  /** Called when the process runs. */
  readonly onStarted?: () => Promise<void>;
}

const { SIGHUP, SIGKILL, SIGPIPE, SIGTERM, SIGWINCH } = constants.signals;

const hangUpGraceMs = 10_000;

/**
 * Starts a created process and is its terminal, or its pipes, until it has ended and all its output is out.
 *
 * @throws unavailable  the daemon died under it; what came before is written out
 */
export async function attach(options: AttachOptions): Promise<ExitStatus> {
  const { client, execId, io, relay, terminal } = options;
  const wait = client.wait(execId);
  // Looked at only once the process has started.
  wait.catch(() => {});
  using window = new DisposableStack();
  if (terminal) {
    window.use(followWindowSize((size) => void client.resize(execId, size).catch(() => {})));
  }
  if (terminal && options.interactive) window.use(enterRawMode());
  relay.aborted.throwIfAborted();
  await client.start(execId);
  io.releaseHolds();
  relay.forwardTo((signal) => passOn(options, signal));
  await options.onStarted?.();
  void io.copyInput(() => client.closeStdin(execId));
  let broken: Error | undefined;
  void io.stdoutBroken.then(async (error) => {
    broken = error;
    // Its init would not get SIGPIPE from us (it is process 1 of its namespace), and a reader that left wants no more.
    await client.kill(execId, SIGKILL).catch(() => {});
  });
  const exit = await wait.catch(
    (cause: unknown) =>
      new RuntimeError("unavailable", "Cannot wait for the process: its shim daemon is gone", { cause }),
  );
  relay.stopForwarding();
  const unwanted = options.hurried === undefined ? [] : [abortOf(options.hurried)];
  await Promise.race([io.outputDone, abortOf(relay.aborted), ...unwanted]);
  relay.aborted.throwIfAborted();
  if (exit instanceof RuntimeError) throw exit;
  if (broken === undefined) return exit;
  if (errnoOf(broken) !== "EPIPE") throw broken;
  return { ...exit, exitCode: 128 + SIGPIPE };
}

async function passOn({ client, execId, terminal }: AttachOptions, signal: number): Promise<void> {
  // On a terminal the process gets that one from its own, when the size is set.
  if (terminal && signal === SIGWINCH) return;
  await client.kill(execId, signal);
  if (!terminal || (signal !== SIGHUP && signal !== SIGTERM)) return;
  // Interactive shells ignore both, and without us nobody can ever type into them again.
  await sleep(hangUpGraceMs, undefined, { ref: false });
  await client.kill(execId, SIGKILL);
}

function abortOf(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
