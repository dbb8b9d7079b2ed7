import { readdirSync, readFileSync } from "node:fs";

/** What /proc/PID/smaps_rollup says, in MiB. */
export interface Rollup {
  /** Proportional set size of everything but shared memory: private memory, and this process's share of files. */
  readonly ownMiB: number;
  /** Of shared memory (memfd, tmpfs): in our processes this is the guest's. */
  readonly sharedMiB: number;
  /** What nobody else has. */
  readonly privateMiB: number;
}

/** @throws Error  a kernel before 5.9, which has no parts */
export function parseRollup(text: string): Rollup {
  const kib = (key: string) => {
    const value = new RegExp(`^${key}: +(\\d+) kB$`, "m").exec(text)?.[1];
    if (value === undefined) throw new Error(`Cannot read the memory of a process: no "${key}" in ${text}`);
    return Number(value);
  };
  const shared = kib("Pss_Shmem");
  return {
    ownMiB: (kib("Pss") - shared) / 1024,
    sharedMiB: shared / 1024,
    privateMiB: (kib("Private_Clean") + kib("Private_Dirty")) / 1024,
  };
}

export function readRollup(pid: number): Rollup {
  return parseRollup(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
}

/** A process, and with `withChildren` all below it. */
export function treeOf(pid: number, withChildren: boolean): number[] {
  if (!withChildren) return [pid];
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number),
  );
  return [pid, ...children.flatMap((child) => treeOf(child, true))];
}
