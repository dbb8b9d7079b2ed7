import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { markedProcesses } from "../support/leaks-processes.ts";

/** The programs of a sandbox by the kernel's name of their process (15 characters). */
const programNames = {
  QEMU: "qemu-system-x86",
  virtiofsd: "virtiofsd",
  "vsock backend": "vhost-device-vs",
} as const;

export type PartName = keyof typeof programNames | "daemon";

/** The processes of one part of a container's sandbox; virtiofsd has two. Empty: there is none (yet, or any more). */
export function findPart(containerId: string, part: PartName): number[] {
  if (part === "daemon") return findPart(containerId, "QEMU").map(parentOf);
  const name = programNames[part];
  // They work in the sandbox's directory, so that the id is in their evidence.
  return markedProcesses({ marks: [containerId] }, /./).filter((pid) => nameOf(pid) === name);
}

/** Waits until so many processes of the part are there: processes of others announce themselves to nobody. */
export async function waitForPart(containerId: string, part: PartName, count = 1): Promise<number[]> {
  for (const end = performance.now() + 30_000; performance.now() < end; await sleep(10)) {
    const pids = findPart(containerId, part);
    if (pids.length >= count) return pids;
  }
  throw new Error(`No ${part} of "${containerId}" within 30 s`);
}

export function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // It ended by itself.
    }
  }
}

export function isRunning(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "";
  }
}

function parentOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
}
