import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { ignoreCode } from "../base/errors.ts";
import { loadNative } from "../base/native.ts";
import { ProcessIo } from "../client/process-io.ts";
import type { SignalRelay } from "../client/signal-relay.ts";
import { openStandardSink } from "../client/sinks.ts";
import type { TaskClient } from "../client/task-client.ts";
import type { Stdio } from "../sandbox/model.ts";
import { type Console, openConsole, ownConsole } from "./console.ts";

/** `own`: our stdin and stdout are it. */
export type TerminalKind =
  | { readonly tag: "none" }
  | { readonly tag: "own" }
  | { readonly tag: "socket"; readonly path: string };

export interface ProxyOptions {
  readonly client: TaskClient;
  /** Empty: the container's first process. */
  readonly execId: string;
  /** 0: we stand for it ourselves. */
  readonly standInPid: number;
  /** What the daemon runs when we are gone before the process has ended; empty: nothing. */
  readonly commandAtLoss: readonly string[];
  /** Made for the FIFOs. */
  readonly ioDirectory: string;
  readonly terminal: TerminalKind;
  /** Makes the process known to the daemon (Create; or Exec and Start). */
  readonly register: (stdio: Stdio) => Promise<void>;
}

const { SIGHUP, SIGKILL, SIGPIPE, SIGWINCH } = constants.signals;

/** What containerd reports too for a process whose daemon was killed. */
const lostExitCode = 128 + SIGKILL;
/** Interactive shells ignore a hang-up, and nobody can ever type into them again. */
const hangUpGraceMs = 10_000;

/**
 * Stands on the host for a process in a guest: copies its stdio, passes our signals on, and knows how it ended. When we
 * die, the daemon kills it.
 */
export class ProcessProxy implements Disposable {
  readonly #options: ProxyOptions;
  readonly #io: ProcessIo;
  readonly #console: Console | undefined;
  readonly #exitCode: Promise<number>;
  #isBroken = false;

  private constructor(options: ProxyOptions, io: ProcessIo, console: Console | undefined) {
    const { client, execId } = options;
    this.#options = options;
    this.#io = io;
    this.#console = console;
    client.hold(execId, options.standInPid, options.commandAtLoss).catch(() => {
      // The daemon died; the wait says so.
    });
    this.#exitCode = client.wait(execId).then(
      (exit) => exit.exitCode,
      () => lostExitCode,
    );
    void io.stdoutBroken.then(async () => {
      this.#isBroken = true;
      await this.signal(SIGKILL);
    });
  }

  /** Opens the stdio and registers the process; on failure nothing of it is left. */
  static async open(options: ProxyOptions): Promise<ProcessProxy> {
    using cleanup = new DisposableStack();
    const { terminal } = options;
    const console =
      terminal.tag === "none"
        ? undefined
        : cleanup.use(terminal.tag === "own" ? ownConsole(openStandardSink(1)) : openConsole(terminal.path));
    const io = cleanup.use(
      new ProcessIo({
        directory: options.ioDirectory,
        stdin: true,
        terminal: console !== undefined,
        ...(console === undefined ? {} : { stdout: console.output }),
      }),
    );
    await options.register(io.stdio);
    io.releaseHolds();
    const proxy = new ProcessProxy(options, io, console);
    cleanup.move();
    return proxy;
  }

  /** Copies stdin, follows the window's size, and gives our signals to the process from now on. */
  attach(relay: SignalRelay): void {
    const { client, execId } = this.#options;
    this.#resize();
    relay.forwardTo((signal) => this.#passOn(signal));
    void this.#io.copyInput(() => client.closeStdin(execId), this.#console?.input);
  }

  /** Gives a signal to the process; one that has ended needs none. */
  async signal(signal: number): Promise<void> {
    const { client, execId } = this.#options;
    await client.kill(execId, signal).catch(ignoreCode("not_found", "unavailable", "failed_precondition"));
  }

  /** Resolves with the exit code (128 + n for signal n) when the process has ended and its output is out. */
  async ended(): Promise<number> {
    const exitCode = await this.#exitCode;
    // What children of an exec still hold open is not the output of the exec.
    await (this.#options.execId === "" ? this.#io.outputDone : this.#io.quiet());
    return this.#isBroken ? 128 + SIGPIPE : exitCode;
  }

  [Symbol.dispose](): void {
    this.#io[Symbol.dispose]();
    this.#console?.[Symbol.dispose]();
  }

  async #passOn(signal: number): Promise<void> {
    if (this.#console !== undefined && signal === SIGWINCH) return this.#resize();
    await this.signal(signal);
    if (this.#console === undefined || signal !== SIGHUP) return;
    await sleep(hangUpGraceMs, undefined, { ref: false });
    await this.signal(SIGKILL);
  }

  #resize(): void {
    const size = this.#console?.size();
    if (size === undefined) return;
    this.#options.client.resize(this.#options.execId, size).catch(() => {
      // The process has ended.
    });
  }
}

/** Stopping and continuing, and what is ignored by default: they end nobody. */
const harmlessSignals: readonly number[] = (
  ["SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"] as const
).map((name) => constants.signals[name]);
const maxSignal = 64;

/** Ends us as the process ended, so that our parent sees what it would have seen of it. */
export function endLike(exitCode: number): never {
  const signal = exitCode - 128;
  if (signal > 0 && signal <= maxSignal && !harmlessSignals.includes(signal)) loadNative().dieOf(signal);
  process.exit(exitCode);
}
