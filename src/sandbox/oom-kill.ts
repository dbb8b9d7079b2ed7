import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import type { PodCgroup } from "./pod-cgroup.ts";

/** The reason of a VM's end, with the host's part in it: a kernel that kills says so nowhere else. */
export async function withOomKill(cgroup: PodCgroup | undefined, reason: string): Promise<string> {
  if (cgroup === undefined || !(await cgroup.wasOomKilled())) return reason;
  return `${reason}; the host's OOM killer has struck in the sandbox's cgroup: its limit leaves too little room for the VM`;
}

/** Says the same of a failure to start it. */
export async function orOomKill<T>(cgroup: PodCgroup | undefined, start: () => Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (cause) {
    const words = describe(cause);
    const explained = await withOomKill(cgroup, words);
    throw explained === words ? cause : new RuntimeError(codeOf(cause), explained);
  }
}
