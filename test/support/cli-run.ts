import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { patient } from "./patience.ts";

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Given to stdin, then end of file; default: end of file at once. */
  readonly input?: string | Uint8Array | Readable;
  /** After it (times the suites' patience) SIGKILL, and the result says so. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  /** What a shell shows: the exit code, or 128 + signal number is left to `signal`. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly timedOut: boolean;
  readonly stdout: string;
  readonly stderr: string;
  readonly durationMs: number;
}

/** A program started by a test; still running when disposed, it is killed and reaped. */
export interface Running extends AsyncDisposable {
  readonly pid: number;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly child: ChildProcessWithoutNullStreams;
  /** Resolves when it has ended and its streams are closed or destroyed. */
  readonly ended: Promise<{ exitCode: number | null; signal: NodeJS.Signals | null; timedOut: boolean }>;
}

const defaultTimeoutMs = 120_000;

/** Starts a program with a time limit and leaves its streams to the caller. */
export function start(argv: readonly string[], options: Omit<RunOptions, "input"> = {}): Running {
  const [file = "", ...args] = argv;
  const child = spawn(file, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: "pipe",
  });
  let timedOut = false;
  const timer = setTimeout(
    () => {
      timedOut = true;
      child.kill("SIGKILL");
      // A grandchild may hold the pipes; the result is what counts now.
      for (const stream of [child.stdout, child.stderr]) stream.destroy();
    },
    patient(options.timeoutMs ?? defaultTimeoutMs),
  );
  // A program that ends before it has read its stdin is no error of ours.
  child.stdin.on("error", () => {});
  const failed = once(child, "error").then(([error]) => {
    throw error;
  });
  const closed = once(child, "close").then(([exitCode, signal]) => ({
    exitCode: exitCode as number | null,
    signal: signal as NodeJS.Signals | null,
    timedOut,
  }));
  const ended = Promise.race([closed, failed]).finally(() => clearTimeout(timer));
  ended.catch(() => {});
  return {
    pid: child.pid ?? 0,
    child,
    stdin: child.stdin,
    stdout: child.stdout,
    stderr: child.stderr,
    ended,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      for (const stream of [child.stdout, child.stderr]) stream.destroy();
      await ended.catch(() => {});
    },
  };
}

/** Runs a program to its end and keeps its output as text. */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const begin = performance.now();
  const running = start(argv, options);
  const { input } = options;
  if (input !== undefined && !(input instanceof Uint8Array) && typeof input !== "string") {
    input.pipe(running.stdin);
  } else {
    running.stdin.end(input);
  }
  const [stdout, stderr, end] = await Promise.all([
    text(running.stdout).catch(() => ""),
    text(running.stderr).catch(() => ""),
    running.ended,
  ]);
  return { ...end, stdout, stderr, durationMs: performance.now() - begin };
}

/** The same, and throws unless the exit code is 0. */
export async function runOk(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const result = await run(argv, options);
  if (result.exitCode !== 0) throw new Error(`"${argv.join(" ")}" failed: ${outcome(result)}`);
  return result;
}

/** One line on how a program ended, for messages. */
export function outcome(result: RunResult): string {
  const how = result.timedOut
    ? "no end within its time limit"
    : `exit code ${result.exitCode}, signal ${result.signal}`;
  return `${how}, stdout ${JSON.stringify(result.stdout.slice(-2000))}, stderr ${JSON.stringify(result.stderr.slice(-4000))}`;
}
