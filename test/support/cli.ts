import { mkdirSync, writeFileSync } from "node:fs";
import { buildPath, requireFiles } from "./cli-build.ts";
import { type PtyOptions, type Pty, startOnPty } from "./cli-pty.ts";
import { run, type RunOptions, type RunResult, type Running, start } from "./cli-run.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { withSuiteSettings } from "./suite-settings.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

const program = buildPath("bin/caisson");
/** The demo image as an OCI layout; beside it `.tar`, the archive. */
export const layout = buildPath("images/busybox");

/** The image that every test runs. */
export const image = `oci:${layout}:latest`;

/** `build/bin/caisson` with a configuration, state and data of the test's own. */
export interface Cli extends AsyncDisposable {
  readonly dir: TempDir;
  /** A container id that is unique on the machine. */
  id(name: string): string;
  run(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  start(args: readonly string[], options?: Omit<RunOptions, "input">): Running;
  /** On a terminal; the arguments are quoted for the shell. `after` is shell text that follows the command. */
  onPty(args: readonly string[], options?: PtyOptions, after?: string): Pty;
  /** Adds lines to the configuration, or puts them in the place of its own, until the result is disposed. */
  configure(toml: string): Disposable;
  /** Removes what a failed test left, so that it does not stand in the way of the next. */
  removeAll(): Promise<void>;
  /** For the leak checker: state and data directories with all that is in them. */
  leakScope(): LeakScope;
}

/** Prepares the directories and runs one container, so that what is kept on purpose (the unpacked image) is there. */
export async function createCli(): Promise<Cli> {
  requireFiles(program, layout);
  const dir = createTempDir();
  const config = dir.join("caisson.toml");
  const state = dir.join("run");
  const data = dir.join("data");
  const settings = `state_directory = "${state}"\ndata_directory = "${data}"`;
  for (const path of [state, data]) mkdirSync(path);
  writeFileSync(config, withSuiteSettings(settings));
  const env = { CAISSON_CONFIG: config };

  const cli: Cli = {
    dir,
    id: (name) => `${dir.token}-${name}`,
    run: (args, options) => run([program, ...args], { ...options, env: { ...env, ...options?.env } }),
    start: (args, options) => start([program, ...args], { ...options, env: { ...env, ...options?.env } }),
    onPty: (args, options, after = "") =>
      startOnPty(`${[program, ...args].map(quote).join(" ")}${after}`, {
        ...options,
        env: { ...env, ...options?.env },
      }),
    configure: (toml) => {
      writeFileSync(config, withSuiteSettings(settings, toml));
      return { [Symbol.dispose]: () => writeFileSync(config, withSuiteSettings(settings)) };
    },
    leakScope: () => ({ marks: [dir.token], directories: [state, data] }),
    removeAll: async () => {
      const listed = await cli.run(["ps", "--all", "--quiet"]);
      const ids = listed.stdout.split("\n").filter((id) => id !== "");
      if (ids.length > 0) await cli.run(["rm", "--force", ...ids]);
    },
    [Symbol.asyncDispose]: async () => {
      await cli.removeAll();
      await dir[Symbol.asyncDispose]();
    },
  };
  const first = await cli.run(["run", "--rm", image, "true"]);
  if (first.exitCode !== 0) {
    await cli[Symbol.asyncDispose]();
    throw new Error(`Cannot run a first container: ${first.stderr}`);
  }
  return cli;
}

/** One word of a shell's command line. */
export function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
