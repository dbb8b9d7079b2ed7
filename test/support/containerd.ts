import type { ChildProcess } from "node:child_process";
import { mkdirSync, readdirSync, rmdirSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildPath, requireFiles } from "./cli-build.ts";
import { run, type RunOptions, type RunResult, runOk } from "./cli-run.ts";
import { busyboxArchive, busyboxReference } from "./containerd-image.ts";
import {
  configName,
  currentBinaries,
  killContainerd,
  launchContainerd,
  removeMarked,
  socketName,
  stopContainerd,
} from "./containerd-process.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { patient } from "./patience.ts";
import { withSuiteSettings } from "./suite-settings.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

/** The runtime under test. Another one (io.containerd.runc.v2) shows whether a test's expectation is fair. */
export const runtime = process.env["CAISSON_E2E_RUNTIME"] ?? "io.containerd.caisson.v2";
export const isCaisson = runtime.startsWith("io.containerd.caisson.");

/** A containerd of its own: root, state, socket, namespace, image; nothing of it is shared with the machine's. */
export interface Containerd extends AsyncDisposable {
  readonly dir: TempDir;
  /** containerd's namespace, which is the test's token. */
  readonly namespace: string;
  readonly pid: number;
  /** A container id that is unique on the machine, and another one for a test that is tried again. */
  id(name: string): string;
  /** The command line of ctr for this containerd. */
  ctrArgv(...args: string[]): string[];
  ctr(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** The same, and throws unless ctr's exit code is 0. */
  ctrOk(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Arguments of `ctr` that run a command in a busybox container. */
  runArgs(flags: readonly string[], id: string, ...command: string[]): string[];
  /** Runs a container in the background; disposing the result removes task and container, whatever their state. */
  startTask(flags: readonly string[], id: string, ...command: string[]): Promise<Task>;
  /** Adds lines to Caisson's configuration, or puts them in the place of its own, for the sandboxes that start until the result is disposed. */
  configure(toml: string): Disposable;
  /** Removes the tasks and containers that a failed test left, so that they do not stand in the way of the next; ids are new from here on. */
  removeAll(): Promise<void>;
  /** SIGKILL; resolves when it is reaped. */
  kill(): Promise<void>;
  /** Starts it again in the same directories; resolves when it serves. */
  restart(): Promise<void>;
  /** For the leak checker: all that a sandbox may leave behind with this containerd. */
  leakScope(): LeakScope;
}

/** A running container. */
export interface Task extends AsyncDisposable {
  readonly id: string;
  /** As containerd knows it: with Caisson the VMM's. */
  readonly pid: number;
}

/** Starts a containerd with the busybox image in it; `binaries` holds the programs of another version, 1.6 or newer. */
export async function startContainerd(binaries = currentBinaries): Promise<Containerd> {
  requireBinaries(binaries);
  const dir = createTempDir();
  const files = writeConfiguration(dir);
  const namespace = dir.token;
  const ctrArgv = (...args: string[]) => [
    // The warning that cgroup v1 is deprecated would stand in the stderr that tests compare.
    "env",
    "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1",
    join(binaries, "ctr"),
    "--address",
    files.socket,
    "--namespace",
    namespace,
    ...args,
  ];
  const ctr = (args: readonly string[], options?: RunOptions) => run(ctrArgv(...args), options);
  const ctrOk = (args: readonly string[], options?: RunOptions) => runOk(ctrArgv(...args), options);
  let child = await launch(binaries, dir, files, ctr);
  let round = 0;

  const kill = () => killContainerd(child);
  const containerd: Containerd = {
    dir,
    namespace,
    get pid() {
      return child.pid ?? 0;
    },
    id: (name) => `${dir.token}-${round}-${name}`,
    ctrArgv,
    ctr,
    ctrOk,
    runArgs: (flags, id, ...command) => [
      "run",
      "--runtime",
      runtime,
      "--fifo-dir",
      files.fifos,
      ...flags,
      busyboxReference,
      id,
      ...command,
    ],
    startTask: async (flags, id, ...command) => {
      const remove = async () => {
        await ctr(["task", "rm", "--force", id], { timeoutMs: 30_000 });
        await ctr(["container", "rm", id], { timeoutMs: 30_000 });
        removeFifos(files.fifos, id);
      };
      try {
        await ctrOk(containerd.runArgs(["--detach", ...flags], id, ...command));
        const listed = await taskState(containerd, id);
        if (listed === undefined) throw new Error(`Task "${id}" is not listed after it was started`);
        return { id, pid: listed.pid, [Symbol.asyncDispose]: remove };
      } catch (error) {
        await remove();
        throw error;
      }
    },
    configure: (toml) => {
      writeFileSync(files.caissonConfig, caissonConfig(dir, files, toml));
      return { [Symbol.dispose]: () => writeFileSync(files.caissonConfig, caissonConfig(dir, files)) };
    },
    kill,
    restart: async () => {
      await kill();
      child = await launch(binaries, dir, files, ctr);
    },
    leakScope: () => ({
      marks: [dir.token],
      directories: [files.bundles, files.work, files.snapshots, files.fifos, files.sandboxes],
      containerdPid: child.pid ?? 0,
    }),
    removeAll: () => {
      round++;
      return removeContainers(containerd);
    },
    [Symbol.asyncDispose]: async () => {
      await containerd.removeAll();
      await stopContainerd(child);
      await removeMarked(dir.token);
      await dir[Symbol.asyncDispose]();
    },
  };
  try {
    await ctrOk(["image", "import", await busyboxArchive(dir)]);
    // What a first run makes for good (containerd: the namespace's directory) is not a leak of the tests that follow.
    await ctrOk(containerd.runArgs(["--rm"], containerd.id("first"), "true"));
  } catch (error) {
    await containerd[Symbol.asyncDispose]();
    throw error;
  }
  return containerd;
}

/** What `ctr task ls` says of a task; undefined when it is not there. */
export async function taskState(
  containerd: Containerd,
  id: string,
): Promise<{ readonly pid: number; readonly status: string } | undefined> {
  const { stdout } = await containerd.ctrOk(["task", "ls"]);
  const fields = stdout
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .find(([listed]) => listed === id);
  return fields === undefined ? undefined : { pid: Number(fields[1]), status: fields[2] ?? "" };
}

interface Files {
  readonly socket: string;
  readonly bundles: string;
  readonly work: string;
  readonly snapshots: string;
  readonly fifos: string;
  readonly sandboxes: string;
  readonly caissonConfig: string;
}

function requireBinaries(binaries: string): void {
  const wanted = ["containerd", "ctr"].map((name) => join(binaries, name));
  if (isCaisson) wanted.push(buildPath("bin/containerd-shim-caisson-v2"));
  requireFiles(...wanted);
}

function writeConfiguration(dir: TempDir): Files {
  const files: Files = {
    socket: dir.join(socketName),
    bundles: dir.join("state/io.containerd.runtime.v2.task"),
    work: dir.join("root/io.containerd.runtime.v2.task"),
    snapshots: dir.join("root/io.containerd.snapshotter.v1.overlayfs/snapshots"),
    fifos: dir.join("fifo"),
    sandboxes: dir.join("run"),
    caissonConfig: dir.join("caisson.toml"),
  };
  mkdirSync(files.fifos);
  mkdirSync(files.sandboxes);
  const off = [
    "cri.v1.images",
    "cri.v1.runtime",
    "grpc.v1.cri",
    "nri.v1.nri",
    "tracing.processor.v1.otlp",
    "internal.v1.tracing",
  ];
  writeFileSync(
    dir.join(configName),
    // Every containerd since 1.6 reads it.
    `version = 2
root = "${dir.join("root")}"
state = "${dir.join("state")}"
imports = []
disabled_plugins = [${off.map((name) => `"io.containerd.${name}"`).join(", ")}]
[grpc]
address = "${files.socket}"
[debug]
level = "trace"
[plugins."io.containerd.internal.v1.opt"]
path = "${dir.join("opt")}"
${timeouts()}`,
  );
  writeFileSync(files.caissonConfig, caissonConfig(dir, files));
  return files;
}

/** What containerd allows a shim: its own values, longer on a host that is slow as a whole. */
function timeouts(): string {
  const seconds = { "shim.cleanup": 5, "shim.load": 5, "shim.shutdown": 3, "task.state": 2 };
  const lines = Object.entries(seconds).map(
    ([name, value]) => `"io.containerd.timeout.${name}" = "${patient(value * 1000)}ms"`,
  );
  return ["[timeouts]", ...lines, ""].join("\n");
}

function caissonConfig(dir: TempDir, files: Files, toml = ""): string {
  const directories = `state_directory = "${files.sandboxes}"\ndata_directory = "${dir.join("data")}"`;
  return withSuiteSettings(directories, toml);
}

/** Starts the daemon and waits until it answers. */
function launch(
  binaries: string,
  dir: TempDir,
  files: Files,
  ctr: (args: readonly string[], options?: RunOptions) => Promise<RunResult>,
): Promise<ChildProcess> {
  const isServing = () => ctr(["version"], { timeoutMs: 10_000 });
  return launchContainerd({ binaries, dir, isServing, caissonConfig: files.caissonConfig });
}

/**
 * Removes the FIFOs of a container. They are the client's to remove, and nobody does it where a detached ctr made them
 * and containerd has deleted the task by itself (after the death of its shim).
 */
function removeFifos(directory: string, id: string): void {
  for (const name of readdirSync(directory)) {
    const paths = readdirSync(join(directory, name)).map((file) => join(directory, name, file));
    if (!paths.some((path) => path.endsWith(`/${id}-stdout`))) continue;
    for (const path of paths) unlinkSync(path);
    rmdirSync(join(directory, name));
  }
}

async function removeContainers(containerd: Containerd): Promise<void> {
  const limit = { timeoutMs: 20_000 };
  const list = async (what: string) => {
    const { stdout } = await containerd.ctr([what, "ls", "--quiet"], limit);
    return stdout.split("\n").filter((id) => id !== "");
  };
  for (const id of await list("task")) await containerd.ctr(["task", "rm", "--force", id], limit);
  for (const id of await list("container")) await containerd.ctr(["container", "rm", id], limit);
}
