import { describe, RuntimeError } from "../base/errors.ts";
import { Interruption } from "../client/signal-relay.ts";

/** Exit codes as Docker has them. */
export const exitCodes = {
  /** An error of the command line itself, not of the command in the container. */
  ownFailure: 125,
  cannotInvoke: 126,
  notFound: 127,
  /** Any command but `run` and `exec` failed. */
  failed: 1,
} as const;

/** The command in the container could not be started. The exit code is told apart by what the OCI runtime said. */
class CommandError extends RuntimeError {
  readonly exitCode: number;

  constructor(exitCode: number, message: string, cause: RuntimeError) {
    super(cause.code, message, { cause });
    this.exitCode = exitCode;
  }
}

/**
 * The error of a Create or Start, as a `CommandError` where the command is the reason.
 *
 * The words are those of crun ("executable file `x` not found in $PATH", "open executable: Permission denied"), the only
 * place where the difference can be seen.
 */
export function commandFailure(error: unknown, command: string): unknown {
  if (!(error instanceof RuntimeError)) return error;
  const text = describe(error);
  const message = `Cannot run the command ${JSON.stringify(command.slice(0, 200))}`;
  if (/executable file .{0,4096} not found|(?:open|exec\w*|stat) .{0,4096}: No such file/is.test(text)) {
    return new CommandError(exitCodes.notFound, message, error);
  }
  if (
    /(?:open|exec\w*|stat) .{0,4096}: (?:Permission denied|Operation not permitted|Is a directory|Exec format error)/is.test(
      text,
    )
  ) {
    return new CommandError(exitCodes.cannotInvoke, message, error);
  }
  return error;
}

/** What a failed `run` or `exec` exits with. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommandError) return error.exitCode;
  if (error instanceof Interruption) return 128 + error.signal;
  return exitCodes.ownFailure;
}

/** One line for the user. An error of the clean-up stands behind the one that led to it. */
export function report(error: unknown): string {
  if (error instanceof SuppressedError) return `${report(error.suppressed)}; then: ${report(error.error)}`;
  return describe(error);
}
