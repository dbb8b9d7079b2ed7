import { readFile, writeFile } from "node:fs/promises";
import { describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { loadNative } from "../base/native.ts";
import { readOptions } from "./options.ts";
import type { SandboxRequest, ServedSandbox } from "./served-sandbox.ts";

/** The process of a daemon, as its sandboxes have to do with it. */
export interface DaemonProcess {
  /** Whether other starts may be served by it too. */
  readonly servesMany: boolean;
  /** Sandboxes that it serves. */
  readonly sandboxCount: number;
  /** Waits until an earlier sandbox of this id is gone, which would take away what the next one makes. @throws unavailable */
  waitForEarlier(sandboxId: string): Promise<void>;
  /** Takes a sandbox as soon as it can be ended; it is told of its end by `ended`. */
  adopt(sandbox: ServedSandbox): void;
  /** Puts itself where the sandbox wants it to be. @throws not_found  a cgroup of the options */
  takePlace(request: SandboxRequest): Promise<void>;
}

/** A process that lives and ends with its one sandbox. */
export function processOfOne(): DaemonProcess {
  return {
    servesMany: false,
    sandboxCount: 1,
    waitForEarlier: async () => {},
    adopt: (sandbox) => {
      for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => sandbox.end());
      // containerd's `delete` waits for the end of the process.
      void sandbox.ended.then(() => loadNative().exitNow(0));
    },
    takePlace,
  };
}

/** A bug in one call must not end the bookkeeping of every container. */
export function keepAlive(log: Pick<Log, "error">): void {
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (error: unknown) => {
      log.error({ stack: error instanceof Error ? error.stack : "" }, `${event}: ${describe(error)}`);
    });
  }
  process.on("SIGHUP", () => {});
}

/** To be done once. */
export async function takePlace({ namespace, sandboxId, options }: SandboxRequest): Promise<void> {
  process.title = `containerd-shim-caisson-v2 -namespace ${namespace} -id ${sandboxId}`;
  const cgroup = shimCgroupOf(options);
  if (cgroup !== "") {
    const { joinCgroup } = await import("../base/cgroups.ts");
    await joinCgroup(cgroup, process.pid);
  }
  await raiseOomScore();
}

/** The options of runc may name a cgroup for the daemon, whose children then are in it too. Empty: they do not. */
export function shimCgroupOf(options: SandboxRequest["options"]): string {
  if (options === undefined) return "";
  const read = readOptions(options);
  return read.tag === "runc" ? read.shimCgroup : "";
}

/** The daemon shall be killed for want of memory before containerd, whose score it has inherited. */
async function raiseOomScore(): Promise<void> {
  try {
    const inherited = Number(await readFile("/proc/self/oom_score_adj", "utf8"));
    await writeFile("/proc/self/oom_score_adj", String(Math.min(inherited + 1, 1000)));
  } catch {
    // Best effort: not permitted in a user namespace.
  }
}
