import { readFileSync, readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { readJournal } from "../../src/sandbox/journal.ts";
import { sandboxPaths } from "../../src/sandbox/paths.ts";
import type { Containerd } from "../support/containerd.ts";
import { type Benchmark, eachRound } from "./bench.ts";
import { parseRollup } from "./rollup.ts";
import { makeRow } from "./rows.ts";

const group = "memory of one idle sandbox";
/** Memory varies little from run to run. */
const mostRuns = 3;
/** Until what a start has left to do in the background is done. */
const settleMs = 3_000;

/**
 * Proportional set size of a sandbox's processes, each with its children, while its container sleeps. The guest's memory is
 * a memfd that QEMU and its helpers share: what the guest has touched is counted once, as a row of its own.
 */
export const memory: Benchmark = {
  name: "memory",
  async run(bench) {
    const { containerd } = bench;
    const samples = new Map<string, number[]>();
    const add = (name: string, value: number) =>
      void samples.set(name, [...(samples.get(name) ?? []), value]);
    using _settings = containerd.configure("health_interval_ms = 1000");
    await eachRound(bench, group, Math.min(mostRuns, bench.runs), async (round) => {
      await using task = await containerd.startTask([], containerd.id(`idle-${round}`), "sleep", "100000");
      await sleep(settleMs, undefined, { signal: bench.signal });
      const { directory } = sandboxPaths(containerd.dir.join("run"), containerd.namespace, task.id);
      let own = 0;
      let guest = 0;
      for (const entry of readJournal(directory)) {
        if (entry.kind !== "process" && entry.kind !== "daemon") continue;
        const name = entry.kind === "daemon" ? "shim daemon" : entry.name;
        const parts = treeOf(entry.identity.pid, entry.kind === "process").map(rollupOf);
        const sum = parts.reduce((total, part) => total + part.ownMiB, 0);
        own += sum;
        guest += parts.reduce((total, part) => total + part.sharedMiB, 0);
        add(name, sum);
      }
      add("all of these", own);
      add("agent in the guest, resident", agentResidentMiB(containerd));
      add("the guest's memory, as touched", guest);
      return `${own.toFixed(1)} MiB, and the guest's ${guest.toFixed(1)} MiB`;
    });
    return [...samples].map(([name, values]) => {
      const most = goals.get(name);
      if (most === undefined) return makeRow(group, name, "MiB", values);
      return makeRow(group, name, "MiB", values, { goal: { of: "median", is: "at most", value: most } });
    });
  },
};

const goals: ReadonlyMap<string, number> = new Map([
  ["shim daemon", 15],
  ["all of these", 60],
  ["agent in the guest, resident", 5],
]);

/**
 * The agent's own word, which the daemon asks for to see whether the guest answers. It stands in the daemon's log, which
 * containerd has at debug level.
 */
function agentResidentMiB(containerd: Containerd): number {
  const log = readFileSync(containerd.dir.join("containerd.log"), "utf8");
  const bytes = [...log.matchAll(/agentResidentBytes\W+(\d+)/g)].at(-1)?.[1];
  if (bytes === undefined) throw new Error("The daemon's log does not say how much memory the agent has");
  return Number(bytes) / 1024 ** 2;
}

function rollupOf(pid: number): ReturnType<typeof parseRollup> {
  return parseRollup(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
}

/** A process, and with `withChildren` all below it. */
function treeOf(pid: number, withChildren: boolean): number[] {
  if (!withChildren) return [pid];
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number),
  );
  return [pid, ...children.flatMap((child) => treeOf(child, true))];
}
