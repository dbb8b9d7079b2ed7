import { randomBytes } from "node:crypto";
import { PassThrough, Readable } from "node:stream";
import { finished } from "node:stream/promises";
import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import { scope } from "../base/scope.ts";
import type { Container, Process, StdioStreams } from "../sandbox/model.ts";
import { CommandError } from "./errors.ts";
import { keepAlive } from "../base/keep-alive.ts";
import type { ProcessExit, RunOptions, RunResult, SpawnOptions } from "./options.ts";
import { BoundedOutput } from "./output.ts";
import { killNow, type SandboxProcess, toSandboxProcess } from "./process.ts";

/** Where commands run. */
export interface CommandHost {
  readonly container: Container;
  /** The OCI process for a command line. */
  readonly plan: (args: readonly string[], options: SpawnOptions) => Promise<object>;
  /** Why nothing can run any more, once that is so. */
  readonly ended: () => RuntimeError | undefined;
}

/** Ids of what the caller has started begin so. */
export const processPrefix = "p";
const defaultMaxOutputBytes = 10 * 1024 ** 2;
/** Stands for no limit: about 25 days, the longest that a timer can wait. */
const noTimeoutMs = 2 ** 31 - 1;

/** Runs a command to its end and keeps its output. */
export async function runCommand(
  host: CommandHost,
  args: readonly string[],
  options: RunOptions,
): Promise<RunResult> {
  const { maxOutputBytes = defaultMaxOutputBytes, stdin } = options;
  const failed = new AbortController();
  const onFull = (name: string) => () =>
    failed.abort(
      new RuntimeError(
        "resource_exhausted",
        `Cannot keep the output of "${args[0]}": its ${name} has more than ${maxOutputBytes} bytes (maxOutputBytes)`,
      ),
    );
  const stdout = new BoundedOutput(maxOutputBytes, onFull("stdout"));
  const stderr = new BoundedOutput(maxOutputBytes, onFull("stderr"));
  try {
    const input = stdin === undefined ? undefined : toReadable(stdin);
    input?.once("error", (cause) =>
      failed.abort(
        new RuntimeError("canceled", `Cannot go on with "${args[0]}": its stdin failed`, { cause }),
      ),
    );
    const process = await launch(host, args, options, { ...(input && { stdin: input }), stdout, stderr });
    const exit = await supervise(host, process, {
      ...options,
      name: args[0] ?? "",
      failed: failed.signal,
    });
    return { ...exit, stdout: stdout.text, stderr: stderr.text };
  } catch (error) {
    const code = codeOf(error);
    const isCut = ["deadline_exceeded", "canceled", "resource_exhausted", "unavailable"].includes(code);
    if (!isCut) throw error;
    const output = { stdout: stdout.text, stderr: stderr.text };
    throw new CommandError(code, describe(error), output, { cause: error });
  }
}

/** Starts a command and hands out its streams. */
export async function spawnCommand(
  host: CommandHost,
  args: readonly string[],
  options: SpawnOptions,
): Promise<SandboxProcess> {
  const ends = { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() };
  const hasTerminal = options.tty !== undefined && options.tty !== false;
  const { stdin, stdout, stderr } = ends;
  if (hasTerminal) stderr.end();
  const process = await launch(host, args, options, { stdin, stdout, ...(hasTerminal ? {} : { stderr }) });
  // What nobody reads from a process that has ended does not write into a stream that nobody listens to.
  stdin.on("error", () => {});
  // To forget it closes its streams.
  const read = Promise.allSettled([stdout, stderr].map((stream) => finished(stream)));
  const exit = keepAlive(supervise(host, process, { ...options, name: args[0] ?? "", read }));
  // Whoever wants to know calls `wait`.
  exit.catch(() => {});
  return toSandboxProcess(process, ends, exit);
}

/** Registers a process and starts it. On failure nothing is left of it. */
async function launch(
  { container, plan, ended }: CommandHost,
  args: readonly string[],
  options: SpawnOptions,
  streams: StdioStreams,
): Promise<Process> {
  const reason = ended();
  if (reason !== undefined) throw reason;
  if (options.signal?.aborted) throw canceled(args[0] ?? "", options.signal.reason);
  const ociProcess = await plan(args, options);
  const terminal = options.tty !== undefined && options.tty !== false;
  const execId = `${processPrefix}${randomBytes(6).toString("hex")}`;
  const process = await container.exec({
    execId,
    stdio: { stdin: "", stdout: "", stderr: "", terminal },
    streams,
    processJson: Buffer.from(JSON.stringify(ociProcess)),
  });
  try {
    await container.start(execId);
    return process;
  } catch (error) {
    forget(container, execId);
    throw ended() ?? error;
  }
}

interface Supervision extends Pick<SpawnOptions, "signal" | "timeoutMs"> {
  readonly name: string;
  /** Aborts when it cannot go on. */
  readonly failed?: AbortSignal;
  /** Resolves when the rest of its output was read; by default that is not waited for. */
  readonly read?: Promise<unknown>;
}

/** Waits for a process's end, and ends it when its time is over. */
async function supervise(host: CommandHost, process: Process, options: Supervision): Promise<ProcessExit> {
  const { name, signal, failed, timeoutMs = noTimeoutMs } = options;
  using limit = scope(signal, timeoutMs, `the command "${name}"`);
  const kill = () => void killNow(process).catch(() => {});
  for (const source of [limit.signal, failed]) {
    if (source?.aborted) kill();
    source?.addEventListener("abort", kill, { once: true });
  }
  const { exitCode } = await process.wait();
  void (options.read ?? Promise.resolve()).finally(() => forget(host.container, process.execId));
  const lost = host.ended();
  if (lost !== undefined) throw lost;
  if (failed?.aborted) throw failed.reason;
  if (!limit.signal.aborted) return { exitCode };
  throw signal?.aborted ? canceled(name, signal.reason) : limit.signal.reason;
}

/** In the background: nobody waits for it, and a sandbox that ends takes it along. */
function forget(container: Container, execId: string): void {
  void container.delete(execId).catch(() => {});
}

function canceled(name: string, cause: unknown): RuntimeError {
  return new RuntimeError("canceled", `Cannot finish the command "${name}": its signal has aborted`, {
    cause,
  });
}

function toReadable(stdin: string | Uint8Array | Readable): Readable {
  if (stdin instanceof Readable) return stdin;
  const bytes = typeof stdin === "string" ? Buffer.from(stdin) : Buffer.from(stdin);
  return Readable.from(bytes.length === 0 ? [] : [bytes]);
}
