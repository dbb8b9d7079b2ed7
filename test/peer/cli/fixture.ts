import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type RunOptions, type Running, run, type RunResult, start } from "../../support/cli-run.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

/** A machine with the command line, a fake shim and an empty root file system. */
export interface Fixture extends AsyncDisposable {
  readonly directory: TempDir;
  /** A name of our own for a container. */
  readonly name: (suffix: string) => string;
  readonly image: string;
  readonly argv: (...args: string[]) => string[];
  cli(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  start(args: readonly string[]): Running;
  /** Requests to the shims, in their order. */
  readonly requests: readonly string[];
  /** Names of the containers that are left on the disk. */
  readonly containers: readonly string[];
}

const fakeShim = fileURLToPath(new URL("./fake-shim.ts", import.meta.url));
const cliEntry = fileURLToPath(new URL("./cli-entry.ts", import.meta.url));
const node = [process.execPath, "--no-warnings"];

export function createFixture(): Fixture {
  const directory = createTempDir();
  const log = directory.join("requests.log");
  writeFileSync(log, "");
  const shim = directory.join("shim");
  writeFileSync(shim, `#!/bin/sh\nexport FAKE_LOG=${log}\nexec ${node.join(" ")} ${fakeShim} "$@"\n`);
  chmodSync(shim, 0o755);
  mkdirSync(directory.join("rootfs"));
  const argv = (...args: string[]) => [...node, cliEntry, directory.join("data"), shim, ...args];
  return {
    directory,
    name: (suffix) => `${directory.token}-${suffix}`,
    image: `rootfs:${directory.join("rootfs")}`,
    argv,
    cli: (args, options) => run(argv(...args), { timeoutMs: 30_000, ...options }),
    start: (args) => start(argv(...args), { timeoutMs: 30_000 }),
    get requests() {
      return readFileSync(log, "utf8").trim().split("\n");
    },
    get containers() {
      try {
        return readdirSync(directory.join("data/containers"));
      } catch {
        return [];
      }
    },
    async [Symbol.asyncDispose]() {
      // A failed test may have left some; their daemons are no children of ours.
      if (this.containers.length > 0) await run(argv("rm", "-f", ...this.containers));
      await directory[Symbol.asyncDispose]();
    },
  };
}
