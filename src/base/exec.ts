import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { asError, errnoOf, RuntimeError } from "./errors.ts";
import { systemErrorCode } from "./files.ts";
import { foreignText } from "./log.ts";

/** Children see this and nothing of the caller's environment. */
export const minimalEnvironment: Readonly<Record<string, string>> = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  LANG: "C.UTF-8",
};

const maxOutputBytes = 16 * 1024 * 1024;

export interface ExecOptions {
  readonly input?: string | Uint8Array;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  readonly cwd?: string;
}

/**
 * Runs a program to its end and returns its stdout. The environment is minimal, at most 16 MiB of output are kept. Not by
 * execa: to load that takes as long as the rest of the daemon.
 *
 * @throws not_found          the program is not installed
 * @throws canceled           `signal` aborted (its own reason is thrown)
 * @throws deadline_exceeded  it did not end in time; it and its children are killed
 * @throws internal           it failed; the message has the argv and the end of its stderr
 */
export async function exec(argv: readonly string[], options: ExecOptions = {}): Promise<string> {
  const [file = "", ...args] = argv;
  options.signal?.throwIfAborted();
  const ending = await runProgram(file, args, options);
  if (ending.tag === "ended" && ending.exitCode === 0 && ending.kill === undefined) return ending.stdout;
  options.signal?.throwIfAborted();
  const cause = ending.tag === "not started" ? ending.cause : undefined;
  if (errnoOf(cause) === "ENOENT" && options.cwd === undefined) {
    throw new RuntimeError(
      "not_found",
      `Cannot run "${file}": it is not installed or not in ${minimalEnvironment["PATH"]}`,
    );
  }
  const lastWords = ending.tag === "ended" ? foreignText(ending.stderr.trim().slice(-1024)) : "";
  throw new RuntimeError(
    codeOfEnding(ending),
    `Cannot run "${argv.join(" ").slice(0, 400)}": ${howItEnded(ending, options)}${lastWords && `, "${lastWords}"`}`,
    { cause },
  );
}

type Ending =
  | { readonly tag: "not started"; readonly cause: unknown }
  | {
      readonly tag: "ended";
      readonly stdout: string;
      readonly stderr: string;
      readonly exitCode: number | null;
      readonly signal: NodeJS.Signals | null;
      /** Why we killed it, and what it had started. */
      readonly kill: "time" | "output" | "signal" | undefined;
    };

type Program = ChildProcessByStdio<Writable | null, Readable, Readable>;

async function runProgram(file: string, args: readonly string[], options: ExecOptions): Promise<Ending> {
  const { input, signal, timeoutMs = 30_000, cwd } = options;
  let child: Program;
  try {
    child = spawn(file, args, {
      env: { ...minimalEnvironment },
      cwd,
      stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      // A process group, so that a child of its own that holds its output dies with it.
      detached: true,
    }) as Program;
  } catch (cause) {
    return { tag: "not started", cause };
  }
  let kill: (Ending & { tag: "ended" })["kill"];
  const end = (reason: typeof kill) => {
    kill ??= reason;
    killGroup(child.pid);
    // Whoever has left the group and holds them is not waited for.
    child.stdout.destroy();
    child.stderr.destroy();
  };
  const timer = setTimeout(() => end("time"), timeoutMs);
  const onAbort = () => end("signal");
  signal?.addEventListener("abort", onAbort, { once: true });
  const stdout = collect(child.stdout, () => end("output"));
  const stderr = collect(child.stderr, () => end("output"));
  // It may end without having read it.
  child.stdin?.on("error", () => {});
  child.stdin?.end(input);
  try {
    return await new Promise<Ending>((resolve) => {
      child.once("error", (cause) => resolve({ tag: "not started", cause }));
      child.once("close", (exitCode, signalName) =>
        resolve({ tag: "ended", stdout: stdout(), stderr: stderr(), exitCode, signal: signalName, kill }),
      );
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // All of it has ended.
  }
}

/** Returns what gives the text that has come so far. */
function collect(stream: Readable, onTooMuch: () => void): () => string {
  const chunks: Buffer[] = [];
  let length = 0;
  stream.on("data", (chunk: Buffer) => {
    length += chunk.length;
    if (length <= maxOutputBytes) chunks.push(chunk);
    else onTooMuch();
  });
  return () => Buffer.concat(chunks).toString("utf8");
}

function codeOfEnding(ending: Ending) {
  if (ending.tag === "not started") return systemErrorCode(ending.cause);
  return ending.kill === "time" && ending.exitCode === null ? "deadline_exceeded" : "internal";
}

function howItEnded(ending: Ending, { cwd }: ExecOptions): string {
  if (ending.tag === "not started") {
    const where = cwd === undefined ? "" : ` in "${cwd}"`;
    return foreignText(`${asError(ending.cause).message}${where}`, 200);
  }
  if (ending.exitCode !== null) return `exit code ${ending.exitCode}`;
  if (ending.kill === "time") return "no end within its time limit";
  if (ending.kill === "output") return `more than ${maxOutputBytes} bytes of output`;
  return ending.signal ?? "no exit code";
}
