/** The `caisson` command line. It holds no VM: it starts the daemon that containerd starts too, and talks to it. */
import { basename, join } from "node:path";
import { loadConfig } from "../config/load.ts";
import { catchTheRest, runCli } from "./cli.ts";
import { ContainerStore } from "./container-store.ts";
import type { Host } from "./host.ts";

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

catchTheRest();
// The modes of what a container sees are our choice, not that of the shell that we were called from.
process.umask(0o022);
// Explicitly, because a stdin that nobody reads any more would keep the process alive.
process.exit(await runCli(process.argv.slice(2), openHost));
