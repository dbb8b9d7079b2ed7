import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { readJournal } from "../../src/sandbox/journal.ts";
import { sandboxPaths } from "../../src/sandbox/paths.ts";
import type { Containerd } from "../support/containerd.ts";
import type { Benchmark } from "./bench.ts";
import { readRollup, treeOf } from "./rollup.ts";
import { makeRow } from "./rows.ts";

const sandboxes = 10;
const group = `memory of an idle sandbox, one of ${sandboxes}`;
/** Until what a start has left to do in the background is done, and the agent was asked how it is. */
const settleMs = 15_000;

/**
 * Proportional set size of a sandbox's processes, each with its children, while its container sleeps, as one of ten: what they
 * share among each other is counted once. The guest's memory is a memfd that QEMU and its helpers share: what the guest has
 * touched is a row of its own.
 */
export const memory: Benchmark = {
  name: "memory",
  async run(bench) {
    const { containerd } = bench;
    const samples = new Map<string, number[]>();
    const add = (name: string, value: number) =>
      void samples.set(name, [...(samples.get(name) ?? []), value]);
    using _settings = containerd.configure("health_interval_ms = 1000");
    await using started = new AsyncDisposableStack();
    const ids: string[] = [];
    for (let number = 1; number <= sandboxes; number++) {
      bench.signal.throwIfAborted();
      const task = started.use(
        await containerd.startTask([], containerd.id(`idle-${number}`), "sleep", "100000"),
      );
      ids.push(task.id);
      bench.progress(`${group}: started ${number}/${sandboxes}`);
    }
    await sleep(settleMs, undefined, { signal: bench.signal });
    for (const id of ids) {
      const { directory } = sandboxPaths(containerd.dir.join("run"), containerd.namespace, id);
      let own = 0;
      let guest = 0;
      for (const entry of readJournal(directory)) {
        if (entry.kind !== "process" && entry.kind !== "daemon") continue;
        const name = entry.kind === "daemon" ? "shim daemon" : entry.name;
        // It is counted with its parent.
        if (name === "virtiofsd worker") continue;
        const parts = treeOf(entry.identity.pid, entry.kind === "process").map(readRollup);
        const sum = parts.reduce((total, part) => total + part.ownMiB, 0);
        own += sum;
        guest += parts.reduce((total, part) => total + part.sharedMiB, 0);
        add(name, sum);
        if (entry.kind === "daemon") add("shim daemon, private", parts[0]?.privateMiB ?? 0);
      }
      add("all of these", own);
      add("the guest's memory, as touched", guest);
    }
    for (const bytes of agentsResidentBytes(containerd, ids))
      add("agent in the guest, resident", bytes / 1024 ** 2);
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
 * The agents' own word, which the daemons ask for to see whether the guest answers: the last of each. It stands in the daemons'
 * log, which containerd has at debug level.
 */
function agentsResidentBytes(containerd: Containerd, ids: readonly string[]): number[] {
  const log = readFileSync(containerd.dir.join("containerd.log"), "utf8");
  const all = [...log.matchAll(/agentResidentBytes\W+(\d+)/g)].map((match) => Number(match[1]));
  if (all.length < ids.length)
    throw new Error("The daemons' log does not say how much memory the agents have");
  return all.slice(-ids.length);
}
