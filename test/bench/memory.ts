import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProcessIdentity } from "../../src/base/processes.ts";
import type { Config } from "../../src/config/config.ts";
import { type JournalEntry, readJournal } from "../../src/sandbox/journal.ts";
import { sandboxPaths } from "../../src/sandbox/paths.ts";
import type { Containerd, Task } from "../support/containerd.ts";
import { patient } from "../support/patience.ts";
import type { Bench, Benchmark } from "./bench.ts";
import { readRollup, treeOf } from "./rollup.ts";
import { makeRow, type Row } from "./rows.ts";

const sandboxes = 10;
/** Until what a start has left to do in the background is done, and the agent was asked how it is. */
const settleMs = 15_000;
/** Written to a file system in the memory of the guest, and removed. */
const touchedMiB = 60;
/** The guest's kernel reports what is free every two seconds. */
const givenBackMs = 10_000;

/**
 * Proportional set size of a sandbox's processes, each with its children, while its container sleeps, as one of ten: what they
 * share among each other is counted once. The guest's memory is a memfd that QEMU and its helpers share: what the guest has
 * touched is in none of the other rows.
 */
export const memory: Benchmark = {
  name: "memory",
  async run(bench) {
    return [...(await measure(bench, "sandbox")), ...(await measure(bench, "node"))];
  },
};

type Samples = Map<string, number[]>;

async function measure(bench: Bench, daemon: Config["daemon"]): Promise<Row[]> {
  const { containerd } = bench;
  const one = `memory of an idle sandbox, one of ${sandboxes}`;
  const group = daemon === "sandbox" ? one : `${one} with one daemon`;
  // Asked often, an agent soon says what it takes.
  const health = daemon === "sandbox" ? `health_interval_ms = ${patient(1000)}\n` : "";
  using _settings = containerd.configure(`${health}daemon = "${daemon}"`);
  await using started = new AsyncDisposableStack();
  const tasks: Task[] = [];
  for (let number = 1; number <= sandboxes; number++) {
    bench.signal.throwIfAborted();
    const id = containerd.id(`idle-${daemon}-${number}`);
    tasks.push(started.use(await containerd.startTask([], id, "sleep", "100000")));
    bench.progress(`${group}: started ${number}/${sandboxes}`);
  }
  await sleep(settleMs, undefined, { signal: bench.signal });
  const samples: Samples = new Map();
  const daemons = daemonsOf(containerd, tasks);
  for (const task of tasks) addSandbox(samples, containerd, task, daemons);
  if (daemon === "sandbox") {
    for (const bytes of agentsResidentBytes(containerd, tasks.length))
      add(samples, "agent in the guest, resident", bytes / 1024 ** 2);
  } else {
    for (const pid of new Set(daemons.values())) add(samples, "the daemon of all", readRollup(pid).ownMiB);
    await addGivenBack(samples, bench, tasks);
  }
  return [...samples].map(([name, values]) => {
    const most = goals.get(name);
    if (most === undefined) return makeRow(group, name, "MiB", values);
    return makeRow(group, name, "MiB", values, { goal: { of: "median", is: "at most", value: most } });
  });
}

function add(samples: Samples, name: string, value: number): void {
  samples.set(name, [...(samples.get(name) ?? []), value]);
}

function journalOf(containerd: Containerd, { id }: Task): JournalEntry[] {
  return readJournal(sandboxPaths(containerd.dir.join("run"), containerd.namespace, id).directory);
}

/** The process that serves each sandbox. */
function daemonsOf(containerd: Containerd, tasks: readonly Task[]): ReadonlyMap<Task, number> {
  const pidOf = (task: Task) =>
    journalOf(containerd, task).find(({ kind }) => kind === "daemon") as { identity: ProcessIdentity };
  return new Map(tasks.map((task) => [task, pidOf(task).identity.pid]));
}

function addSandbox(
  samples: Samples,
  containerd: Containerd,
  task: Task,
  daemons: ReadonlyMap<Task, number>,
): void {
  const pid = daemons.get(task) ?? 0;
  const served = [...daemons.values()].filter((other) => other === pid).length;
  const daemon = readRollup(pid);
  let own = daemon.ownMiB / served;
  let guest = 0;
  add(samples, "shim daemon", own);
  if (served === 1) add(samples, "shim daemon, private", daemon.privateMiB);
  for (const entry of journalOf(containerd, task)) {
    // The worker of virtiofsd is counted with its parent.
    if (entry.kind !== "process" || entry.name === "virtiofsd worker") continue;
    const parts = treeOf(entry.identity.pid, true).map(readRollup);
    const sum = parts.reduce((total, part) => total + part.ownMiB, 0);
    own += sum;
    guest += parts.reduce((total, part) => total + part.sharedMiB, 0);
    add(samples, entry.name, sum);
  }
  add(samples, "all of these", own);
  add(samples, "the guest's memory, as touched", guest);
}

/** What the guests' memory takes on the host once their workload has let go of some. */
async function addGivenBack(samples: Samples, { containerd, signal }: Bench, tasks: readonly Task[]) {
  const script = `dd if=/dev/zero of=/dev/shm/x bs=1M count=${touchedMiB} && rm /dev/shm/x`;
  for (const { id } of tasks)
    await containerd.ctrOk(["task", "exec", "--exec-id", "touch", id, "sh", "-c", script]);
  await sleep(givenBackMs, undefined, { signal });
  const name = `the guest's memory, after ${touchedMiB} MiB were used and freed`;
  for (const task of tasks) {
    const parts = journalOf(containerd, task).flatMap((entry) =>
      entry.kind === "process" && entry.name !== "virtiofsd worker"
        ? treeOf(entry.identity.pid, true).map(readRollup)
        : [],
    );
    add(
      samples,
      name,
      parts.reduce((total, part) => total + part.sharedMiB, 0),
    );
  }
}

const goals: ReadonlyMap<string, number> = new Map([
  ["shim daemon", 15],
  ["all of these", 60],
  ["agent in the guest, resident", 5],
]);

/**
 * The agents' own word, which the daemons ask for to see whether the guest answers: the last of each. It stands in the daemons'
 * log, which containerd has at debug level.
 */
function agentsResidentBytes(containerd: Containerd, count: number): number[] {
  const log = readFileSync(containerd.dir.join("containerd.log"), "utf8");
  const all = [...log.matchAll(/agentResidentBytes\W+(\d+)/g)].map((match) => Number(match[1]));
  if (all.length < count) throw new Error("The daemons' log does not say how much memory the agents have");
  return all.slice(-count);
}
