import { RuntimeError } from "./errors.ts";
import { minimalEnvironment } from "./exec.ts";
import { foreignText } from "./log.ts";

export interface ChildOptions {
  /** For messages: `Cannot <action>: <its last words>`. */
  readonly action: string;
  readonly cwd: string;
  /** On top of the minimal environment. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Show the program's stdout to the user, on our stderr, instead of returning it. */
  readonly showsProgress?: boolean;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

const maxOutputBytes = 1024 * 1024;
const lastWordsLength = 1024;

/**
 * Runs a program to its end, in a process group of its own so that a Ctrl-C meant for us does not reach it half-way;
 * `signal` ends it instead.
 *
 * @throws not_found    it is not installed
 * @throws unavailable  it failed; the message has its last words
 */
export async function runChild(argv: readonly string[], options: ChildOptions): Promise<Uint8Array> {
  const [file = "", ...args] = argv;
  options.signal?.throwIfAborted();
  // Large, and not needed to start a container.
  const { execa } = await import("execa");
  const result = await execa(file, args, {
    cwd: options.cwd,
    env: { ...minimalEnvironment, ...options.environment },
    extendEnv: false,
    reject: false,
    encoding: "buffer",
    // The last byte of a message may look like the end of a line.
    stripFinalNewline: false,
    stdin: "ignore",
    stdout: options.showsProgress ? 2 : "pipe",
    maxBuffer: maxOutputBytes,
    detached: true,
    cleanup: false,
    timeout: options.timeoutMs ?? 0,
    // Tools that are asked to end remove their temporary files.
    forceKillAfterDelay: 2_000,
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
  });
  if (!result.failed) return result.stdout ?? new Uint8Array();
  options.signal?.throwIfAborted();
  if (result.code === "ENOENT") {
    throw new RuntimeError(
      "not_found",
      `Cannot ${options.action}: "${file}" is not installed or not in ${minimalEnvironment["PATH"]}`,
    );
  }
  const how = result.timedOut
    ? "no end within its time limit"
    : (result.signal ?? `exit code ${result.exitCode}`);
  const stderr = Buffer.from(result.stderr).toString("utf8").trim().slice(-lastWordsLength);
  throw new RuntimeError(
    "unavailable",
    `Cannot ${options.action}: ${foreignText(stderr === "" ? `"${file}": ${how}` : stderr)}`,
  );
}
