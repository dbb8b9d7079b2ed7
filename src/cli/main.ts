/** The `caisson` command line. It holds no VM: it starts the daemon that containerd starts too, and talks to it. */
import { basename, join } from "node:path";
import { CommanderError } from "commander";
import { foreignText } from "../base/log.ts";
import { loadConfig } from "../config/load.ts";
import { ContainerStore } from "./container-store.ts";
import { exitCodes, report } from "./failure.ts";
import type { Host } from "./host.ts";
import { parseArguments } from "./program.ts";

const maxMessageLength = 8 * 1024;

async function main(): Promise<number> {
  let toExitCode: (error: unknown) => number = () => exitCodes.ownFailure;
  try {
    const invocation = await parseArguments(process.argv.slice(2), {
      write: (text) => process.stdout.write(text),
    });
    toExitCode = invocation.exitCodeOf;
    return await invocation.action(openHost());
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    const text =
      error instanceof CommanderError
        ? `${error.message.replace(/^error: /, "")}; see "caisson --help"`
        : report(error);
    process.stderr.write(`caisson: ${foreignText(text, maxMessageLength)}\n`);
    return error instanceof CommanderError ? exitCodes.ownFailure : toExitCode(error);
  }
}

function openHost(): Host {
  // `lib/` and `bin/` are siblings; run as sources, the executables of the checkout's build are used.
  const here = import.meta.dirname;
  const executableDirectory = join(here, basename(here) === "cli" ? "../../build/bin" : "../bin");
  const config = loadConfig({ environment: process.env, executableDirectory });
  return {
    config,
    containers: new ContainerStore(config.dataDirectory),
    shimPath: join(executableDirectory, "containerd-shim-caisson-v2"),
    ownArgv: [process.execPath, ...process.execArgv, process.argv[1] ?? ""],
  };
}

// Explicitly, because a stdin that nobody reads any more would keep the process alive.
process.exit(await main());
