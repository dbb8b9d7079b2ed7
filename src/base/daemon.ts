import { type ChildProcess, spawn, type SpawnOptions, type StdioOptions } from "node:child_process";
import type { Socket } from "node:net";
import type { Duplex, Readable } from "node:stream";
import { RuntimeError } from "./errors.ts";
import { minimalEnvironment } from "./exec.ts";
import { systemErrorCode } from "./files.ts";
import { planLaunch, type Privileges } from "./launch.ts";
import { identify, type ProcessIdentity } from "./processes.ts";
import { foreignText } from "./log.ts";
import { within } from "./scope.ts";
import { TextRing } from "./text-ring.ts";

export interface DaemonSpec {
  /** For messages: "QEMU", "virtiofsd". */
  readonly name: string;
  readonly argv: readonly string[];
  readonly privileges: Privileges;
  /** Working directory; socket paths in the argv are relative to it, so that they stay short. */
  readonly cwd: string;
  /**
   * What the child gets as fd 3 and up: `"socket"` is a socket pair whose other end is `daemon.sockets[i]`, a number
   * is an open file descriptor of ours (we keep ours open; the caller closes it).
   */
  readonly fds?: readonly ("socket" | number)[];
}

export interface DaemonExit {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A long-lived child process that we own: the VMM and its helpers. By itself it does not keep this program running. */
export interface Daemon extends AsyncDisposable {
  readonly name: string;
  readonly identity: ProcessIdentity;
  /** Our ends of the `"socket"` entries of `fds`, in their order. */
  readonly sockets: readonly Duplex[];
  /** Resolves when the process has ended and was reaped. Never rejects. */
  readonly exited: Promise<DaemonExit>;
  readonly hasExited: boolean;
  /** How it ended and its last words, for an error message; says that it runs while it does. */
  lastWords(): string;
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, after `graceMs` SIGKILL, then waits until it is reaped. Safe to call twice. */
  stop(graceMs: number): Promise<void>;
}

const stderrLimitBytes = 16 * 1024;
/** How long the output of an ended process may take to be read; a child of its own may hold it open for ever. */
const outputDrainMs = 100;

/**
 * Starts a long-lived child with only the given privileges, an explicit minimal environment and only the file
 * descriptors named.
 *
 * @throws unavailable         it cannot be executed
 * @throws resource_exhausted  there are no file descriptors or processes left
 */
export async function startDaemon(spec: DaemonSpec): Promise<Daemon> {
  const [file = "", ...args] = planLaunch(spec.argv, spec.privileges);
  const fds = spec.fds ?? [];
  const stdio: StdioOptions = ["ignore", "pipe", "pipe", ...fds.map((fd) => (fd === "socket" ? "pipe" : fd))];
  const child = spawnNamed(spec.name, file, args, { cwd: spec.cwd, env: { ...minimalEnvironment }, stdio });
  const output = new TextRing(stderrLimitBytes);
  const outputEnd = Promise.all([child.stdout, child.stderr].map((stream) => collect(stream, output)));
  let exit: DaemonExit | undefined;
  const exited = new Promise<DaemonExit>((resolve) => {
    child.once("exit", (exitCode, signal) => {
      const ended = { exitCode, signal };
      exit = ended;
      // The exit is often noticed before the last words are read.
      void within(outputEnd, outputDrainMs, undefined).then(() => {
        child.stdout?.destroy();
        child.stderr?.destroy();
        resolve(ended);
      });
    });
  });
  await started(child, spec.name);
  letGo(child);
  const sockets = fds.flatMap((fd, index) => (fd === "socket" ? [extraSocket(child, 3 + index)] : []));
  const identity = identify(child.pid ?? 0) ?? { pid: child.pid ?? 0, startTicks: "" };

  const kill = (signal: NodeJS.Signals) => {
    if (exit === undefined) child.kill(signal);
  };
  const stop = async (graceMs: number) => {
    kill("SIGTERM");
    const outcome = graceMs > 0 ? await within(exited, graceMs, "late" as const) : "late";
    if (outcome === "late") kill("SIGKILL");
    await exited;
  };
  return {
    name: spec.name,
    identity,
    sockets,
    exited,
    get hasExited() {
      return exit !== undefined;
    },
    lastWords: () => formatLastWords(spec.name, exit, output),
    kill,
    stop,
    [Symbol.asyncDispose]: () => stop(0),
  };
}

/** `spawn` throws some failures and emits others. */
function spawnNamed(name: string, file: string, args: string[], options: SpawnOptions): ChildProcess {
  try {
    return spawn(file, args, options);
  } catch (cause) {
    throw cannotStart(name, cause);
  }
}

function started(child: ChildProcess, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once("spawn", resolve);
    child.on("error", (cause) => {
      reject(cannotStart(name, cause));
    });
  });
}

function cannotStart(name: string, cause: unknown): RuntimeError {
  const isExhausted = systemErrorCode(cause) === "resource_exhausted";
  return new RuntimeError(isExhausted ? "resource_exhausted" : "unavailable", `Cannot start ${name}`, {
    cause,
  });
}

/** Neither the child nor what connects us with it keeps this program running: whoever waits for something of it does. */
function letGo(child: ChildProcess): void {
  child.unref();
  for (const stream of child.stdio) (stream as Socket | null | undefined)?.unref();
}

/** Resolves when the stream has ended. */
function collect(stream: Readable | null | undefined, output: TextRing): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  stream?.on("data", (chunk: Buffer) => output.push(chunk));
  stream?.on("close", resolve);
  stream?.on("error", () => {
    // The child is gone; its exit is reported by `exited`.
  });
  return promise;
}

function extraSocket(child: ChildProcess, index: number): Duplex {
  return child.stdio[index] as Duplex;
}

function formatLastWords(name: string, exit: DaemonExit | undefined, output: TextRing): string {
  const how =
    exit === undefined
      ? `${name} is running`
      : exit.signal !== null
        ? `${name} was killed by ${exit.signal}`
        : `${name} exited with code ${exit.exitCode}`;
  const lines = output.lastLines(5).map((line) => foreignText(line));
  return lines.length === 0 ? how : `${how}, its last words: ${lines.join(" | ")}`;
}
