import { execa } from "execa";
import { foreignText } from "./log.ts";
import { RuntimeError } from "./errors.ts";
import { systemErrorCode } from "./files.ts";

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
 * Runs a program to its end and returns its stdout. The environment is minimal, at most 16 MiB of output are kept.
 *
 * @throws not_found          the program is not installed
 * @throws canceled           `signal` aborted (its own reason is thrown)
 * @throws deadline_exceeded  it did not end in time; it and its children are killed
 * @throws internal           it failed; the message has the argv and the end of its stderr
 */
export async function exec(argv: readonly string[], options: ExecOptions = {}): Promise<string> {
  const [file = "", ...args] = argv;
  options.signal?.throwIfAborted();
  const result = await execa(file, args, {
    env: { ...minimalEnvironment },
    extendEnv: false,
    reject: false,
    stripFinalNewline: false,
    maxBuffer: maxOutputBytes,
    timeout: options.timeoutMs ?? 30_000,
    killSignal: "SIGKILL",
    // A child of its own that holds its output would be waited for.
    killDescendants: true,
    ...(options.input === undefined ? { stdin: "ignore" as const } : { input: options.input }),
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  if (!result.failed) return result.stdout;
  options.signal?.throwIfAborted();
  if (result.code === "ENOENT" && options.cwd === undefined) {
    throw new RuntimeError(
      "not_found",
      `Cannot run "${file}": it is not installed or not in ${minimalEnvironment["PATH"]}`,
    );
  }
  const lastWords = foreignText((result.stderr ?? "").trim().slice(-1024));
  throw new RuntimeError(
    result.timedOut
      ? "deadline_exceeded"
      : result.exitCode === undefined
        ? systemErrorCode(result.cause)
        : "internal",
    `Cannot run "${argv.join(" ").slice(0, 400)}": ${howItEnded(result)}${lastWords && `, "${lastWords}"`}`,
    { cause: result.cause },
  );
}

interface Ending {
  readonly timedOut: boolean;
  readonly isMaxBuffer: boolean;
  readonly exitCode?: number | undefined;
  readonly signal?: string | undefined;
  readonly originalMessage?: string | undefined;
}

function howItEnded(result: Ending): string {
  if (result.timedOut) return "no end within its time limit";
  if (result.isMaxBuffer) return `more than ${maxOutputBytes} bytes of output`;
  if (result.exitCode !== undefined) return `exit code ${result.exitCode}`;
  return result.signal ?? foreignText(result.originalMessage ?? "it cannot be executed", 200);
}
