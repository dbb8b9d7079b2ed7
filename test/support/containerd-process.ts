import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, rmdirSync, watch } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildPath } from "./cli-build.ts";
import { outcome, type RunResult } from "./cli-run.ts";
import { findCgroups } from "./leaks-kernel.ts";
import { markedProcesses } from "./leaks-processes.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { patient } from "./patience.ts";
import type { TempDir } from "./temp-dir.ts";

/** Folder with containerd, ctr and containerd-shim-runc-v2; `scripts/test-tools` fills it. */
export const currentBinaries =
  process.env["CAISSON_TEST_CONTAINERD"] ?? join(homedir(), ".cache/caisson/go/containerd-2.3.7");

/** In the daemon's directory. */
export const configName = "containerd.toml";
export const socketName = "containerd.sock";

export interface LaunchOptions {
  readonly binaries: string;
  /** Holds the configuration and gets socket and log. */
  readonly dir: TempDir;
  readonly caissonConfig: string;
  /** Arguments before containerd's own, which execute it: to have it in a namespace. */
  readonly prefix?: readonly string[];
  /** A call to the daemon; exit code 0: it serves. */
  readonly isServing: () => Promise<RunResult>;
}

/** Starts the daemon and waits until it answers: first for its socket to appear, then for a call to succeed. */
export async function launchContainerd(options: LaunchOptions): Promise<ChildProcess> {
  const { binaries, dir, prefix = [], isServing } = options;
  const socketAppeared = waitForFile(dir, socketName);
  const log = openSync(dir.join("containerd.log"), "a");
  const [file, ...args] = [...prefix, join(binaries, "containerd"), "--config", dir.join(configName)];
  const child = spawn(file, args, {
    cwd: dir.path,
    env: {
      ...process.env,
      PATH: [buildPath("bin"), binaries, process.env["PATH"]].join(delimiter),
      CAISSON_CONFIG: options.caissonConfig,
    },
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  const ended = once(child, "exit").then(() => {
    throw new Error(
      `containerd ended at start: ${readFileSync(dir.join("containerd.log"), "utf8").slice(-4000)}`,
    );
  });
  ended.catch(() => {});
  await Promise.race([socketAppeared, ended]);
  const deadline = performance.now() + patient(60_000);
  for (;;) {
    const answer = await Promise.race([isServing(), ended]);
    if (answer.exitCode === 0) return child;
    if (performance.now() > deadline) throw new Error(`containerd does not answer: ${outcome(answer)}`);
    // The socket is bound before it serves; nothing tells of the latter.
    await sleep(100);
  }
}

/** SIGKILL; resolves when it is reaped. */
export async function killContainerd(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}

/** Ends it in order, by force after ten seconds. */
export async function stopContainerd(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), patient(10_000));
  await exited;
  clearTimeout(timer);
}

/** Ends the processes and removes the control groups that a failed test left, known by the test's token. */
export async function removeMarked(token: string): Promise<void> {
  const scope: LeakScope = { marks: [token] };
  await endProcesses(scope);
  for (const cgroup of findCgroups(scope).reverse()) {
    if (cgroup.isMarked) rmdirSync(cgroup.text);
  }
}

async function waitForFile(dir: TempDir, name: string): Promise<void> {
  // After SIGKILL the old socket file is still there; containerd replaces it, which is an event too.
  const watcher = watch(dir.path);
  try {
    await new Promise<void>((resolve, reject) => {
      watcher.on("change", (_, changed) => changed === name && resolve());
      watcher.on("error", reject);
    });
  } finally {
    watcher.close();
  }
}

async function endProcesses(scope: LeakScope): Promise<void> {
  for (let round = 0; round < 50; round++) {
    const pids = markedProcesses(scope, /./).filter((pid) => pid !== process.pid);
    if (pids.length === 0) return;
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It ended by itself.
      }
    }
    await sleep(100);
  }
  throw new Error(`Cannot end the processes ${markedProcesses(scope, /./).join(", ")}`);
}
