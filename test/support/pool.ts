import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { buildPath } from "./cli-build.ts";
import type { Containerd } from "./containerd.ts";

/** The keeper of a pool for a containerd of the tests. Disposing ends it. */
export interface Pool extends AsyncDisposable {
  /** Waits until as many VMs wait, those of earlier keepers left out, and returns their names. */
  ready(count: number): Promise<string[]>;
  /** The process that waits under a name. */
  daemonPid(name: string): number;
  /** SIGKILL; resolves when it is reaped. */
  kill(): Promise<void>;
}

const readyTimeoutMs = 90_000;

/** Starts one that keeps `size` VMs. */
export function startPool(containerd: Containerd, size: number): Pool {
  const settings = containerd.configure(`pool_size = ${size}`);
  const left = new Set(waiting(containerd));
  const names = () => waiting(containerd).filter((name) => !left.has(name));
  const child: ChildProcess = spawn(buildPath("bin/containerd-shim-caisson-v2"), ["pool"], {
    env: { PATH: process.env["PATH"], CAISSON_CONFIG: containerd.dir.join("caisson.toml") },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let log = "";
  child.stderr?.on("data", (data: Buffer) => (log += data.toString()));
  const end = async (signal: NodeJS.Signals) => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill(signal);
    await exited;
  };
  return {
    ready: async (count) => {
      for (const deadline = performance.now() + readyTimeoutMs; names().length !== count; await sleep(50)) {
        if (performance.now() > deadline)
          throw new Error(`${names().length} VMs wait, expected ${count}; the keeper says: ${log}`);
      }
      return names();
    },
    daemonPid: (name) => {
      const journal = readFileSync(containerd.dir.join("run", ".pool", name, "journal"), "utf8");
      return Number(/"kind":"daemon","identity":\{"pid":(\d+)/.exec(journal)?.[1]);
    },
    kill: () => end("SIGKILL"),
    [Symbol.asyncDispose]: async () => {
      await end("SIGTERM");
      settings[Symbol.dispose]();
    },
  };
}

/** Whether the VM of a running container came from the pool, as its timeline says. */
export async function cameFromPool(containerd: Containerd, id: string): Promise<boolean> {
  const path = containerd.dir.join("run", containerd.namespace, id, "timeline.json");
  // Written right after the start has been answered.
  for (const deadline = performance.now() + 10_000; performance.now() < deadline; await sleep(20)) {
    const text = read(path);
    if (text !== undefined) return text.includes('"VM of the pool"');
  }
  throw new Error(`There is no timeline "${path}"`);
}

/** The names of the VMs that wait, or did when their daemon was killed. */
export function waiting(containerd: Containerd): string[] {
  try {
    return readdirSync(containerd.dir.join("run", ".ready"));
  } catch {
    return [];
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
