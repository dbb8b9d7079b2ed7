/** The `caisson-oci` command line: an OCI runtime with runc's commands. It starts the daemon that containerd starts too. */
import { basename, join } from "node:path";
import { loadConfig } from "../config/load.ts";
import type { Host } from "./host.ts";
import { type GlobalOptions, runProgram } from "./program.ts";
import { proxyCommand, runProxy } from "./proxy-process.ts";
import { report } from "./report.ts";
import { ContainerStore } from "./store.ts";

function openHost({ root, reporting }: GlobalOptions): Host {
  // `lib/` and `bin/` are siblings; run as sources, the executables of the checkout's build are used.
  const here = import.meta.dirname;
  const executableDirectory = join(here, basename(here) === "oci-cli" ? "../../build/bin" : "../bin");
  return {
    config: loadConfig({ environment: process.env, executableDirectory }),
    containers: new ContainerStore(root),
    shimPath: join(executableDirectory, "containerd-shim-caisson-v2"),
    standInPath: join(executableDirectory, "../libexec/caisson-stand-in"),
    ownArgv: [process.execPath, ...process.execArgv, process.argv[1] ?? ""],
    reporting,
    environment: process.env,
  };
}

process.on("uncaughtException", (error) => {
  report(error, { path: undefined, format: "text" });
  process.exit(1);
});
const args = process.argv.slice(2);
// The modes of what we make are our choice, not that of the program that called us.
process.umask(0o022);
// Explicitly, because a stdin that nobody reads any more would keep the process alive.
process.exit(args[0] === proxyCommand ? await runProxy() : await runProgram(args, openHost));
