import { constants } from "node:os";
import { CommanderError } from "commander";
import { errnoOf } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { exitCodes, report } from "./failure.ts";
import type { Host } from "./host.ts";
import { parseArguments } from "./program.ts";

const maxMessageLength = 8 * 1024;

/**
 * Catches what nobody has caught, which is a bug of ours: it must not look like the exit code of a container. A reader of
 * our output that has seen enough is none.
 */
export function catchTheRest(): void {
  process.on("uncaughtException", (error) => {
    process.exit(
      errnoOf(error) === "EPIPE"
        ? 128 + constants.signals.SIGPIPE
        : complain(report(error), exitCodes.ownFailure),
    );
  });
}

/** Runs one command line, says what went wrong on stderr, and returns the exit code. */
export async function runCli(args: readonly string[], openHost: () => Host): Promise<number> {
  let toExitCode: (error: unknown) => number = () => exitCodes.ownFailure;
  try {
    const invocation = await parseArguments(args, { write: (text) => process.stdout.write(text) });
    toExitCode = invocation.exitCodeOf;
    return await invocation.action(openHost());
  } catch (error) {
    if (!(error instanceof CommanderError)) return complain(report(error), toExitCode(error));
    if (error.exitCode === 0) return 0;
    return complain(`${error.message.replace(/^error: /, "")}; see "caisson --help"`, exitCodes.ownFailure);
  }
}

function complain(text: string, exitCode: number): number {
  process.stderr.write(`caisson: ${foreignText(text, maxMessageLength)}\n`);
  return exitCode;
}
