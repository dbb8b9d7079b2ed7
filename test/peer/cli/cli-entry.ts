/** The command line on another data directory and shim, which are its first two arguments. */
import { runCli } from "../../../src/cli/cli.ts";
import { ContainerStore } from "../../../src/cli/container-store.ts";
import { loadConfig } from "../../../src/config/load.ts";

// A child of the command line (the hidden one that waits) gets no environment, so they are arguments.
const [dataDirectory = "", shimPath = "", ...args] = process.argv.slice(2);

process.exit(
  await runCli(args, () => ({
    config: {
      ...loadConfig({ environment: {}, executableDirectory: "/usr/bin" }),
      dataDirectory,
      stateDirectory: `${dataDirectory}/run`,
    },
    containers: new ContainerStore(dataDirectory),
    shimPath,
    ownArgv: [process.execPath, ...process.execArgv, process.argv[1] ?? "", dataDirectory, shimPath],
  })),
);
