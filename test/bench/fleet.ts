import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { isAlive, type ProcessIdentity } from "../../src/base/processes.ts";
import { deleteShim, type ShimProgram, startShim } from "../../src/client/shim-program.ts";
import { TaskClient } from "../../src/client/task-client.ts";
import { readRecord } from "../../src/shim/record.ts";
import { buildPath } from "../support/cli-build.ts";
import { createPod } from "../support/model-pod.ts";
import type { Bench, Benchmark } from "./bench.ts";
import { startFakeGuests } from "./fake-guests.ts";
import { readRollup } from "./rollup.ts";
import { makeRow } from "./rows.ts";
import { ms } from "./runtimes.ts";
import { quantileOf } from "./statistics.ts";

/** As many as a node has at most; CAISSON_BENCH_RUNS of 1 or 2, for a quick look, has fewer. */
const daemons = 200;
const fewDaemons = 20;
/** Until a daemon has given back what its start has left. */
const settleMs = 12_000;

/**
 * Daemons of sandboxes that run at the same time, each started and stopped as containerd does it, with a fake VM and agent: what
 * they cost by themselves.
 */
export const fleet: Benchmark = {
  name: "fleet of daemons",
  async run(bench) {
    const count = bench.runs > 2 ? daemons : fewDaemons;
    const group = `${count} daemons at once, without VMs`;
    await using pod = createPod();
    const stateDirectory = pod.dir.join("run");
    await using guests = await startFakeGuests(pod.dir);
    const config = pod.dir.join("caisson.toml");
    writeFileSync(config, `state_directory = "${stateDirectory}"\n${guests.settings}`);
    const starts: number[] = [];
    const shimStarts: number[] = [];
    const stops: number[] = [];
    const memory = { own: [] as number[], alone: [] as number[] };
    await using started = new AsyncDisposableStack();
    const members: Member[] = [];
    for (let number = 1; number <= count; number++) {
      bench.signal.throwIfAborted();
      const containerId = `${pod.dir.token}-${number}`;
      const bundle = pod.bundle(String(number), ["sleep", "100000"]);
      const path = buildPath("bin/containerd-shim-caisson-v2");
      const shim = { path, namespace: pod.dir.token, containerId, bundle, config };
      // In whatever state it is then.
      started.defer(async () => void (await deleteShim(shim)));
      const member = await startMember(shim, stateDirectory, bench);
      started.use(member.task);
      members.push(member);
      starts.push(member.startMs);
      shimStarts.push(member.shimMs);
      if (number % 20 === 0)
        bench.progress(`${group}: started ${number}/${count}, the last in ${ms(member.startMs)}`);
    }
    await sleep(settleMs, undefined, { signal: bench.signal });
    for (const { daemon } of members) {
      const { ownMiB, privateMiB } = readRollup(daemon.pid);
      memory.own.push(ownMiB);
      memory.alone.push(privateMiB);
    }
    for (const [index, member] of members.entries()) {
      stops.push(await stopMember(member));
      if ((index + 1) % 20 === 0) bench.progress(`${group}: stopped ${index + 1}/${count}`);
    }
    const left = members.filter(({ daemon }) => isAlive(daemon)).length;
    if (left > 0) throw new Error(`${left} of ${count} daemons live on after their end`);
    return [
      makeRow(group, "started and stopped without an error", "daemons", [members.length], {
        goal: { of: "median", is: "at least", value: count },
      }),
      makeRow(group, "shim start", "ms", shimStarts),
      makeRow(group, "start, create, start", "ms", starts),
      makeRow(group, "start, create, start: p50", "ms", [quantileOf(starts, 0.5)]),
      makeRow(group, "start, create, start: p99", "ms", [quantileOf(starts, 0.99)]),
      makeRow(group, "kill, delete, shutdown", "ms", stops),
      makeRow(group, "private memory of a daemon", "MiB", memory.alone),
      makeRow(group, "proportional share of a daemon", "MiB", memory.own),
    ];
  },
};

interface Member {
  readonly shim: ShimProgram;
  readonly task: TaskClient;
  readonly daemon: ProcessIdentity;
  /** Of the shim's `start`. */
  readonly shimMs: number;
  /** Until the container runs. */
  readonly startMs: number;
}

async function startMember(shim: ShimProgram, stateDirectory: string, bench: Bench): Promise<Member> {
  const { signal } = bench;
  const beginMs = performance.now();
  const address = await startShim(shim, { signal });
  const shimMs = performance.now() - beginMs;
  const task = await TaskClient.connect(address, shim.containerId);
  const stdio = { stdin: "", stdout: "", stderr: "", terminal: false };
  await task.create({ bundle: shim.bundle, rootfs: [], stdio }, { signal });
  await task.start("");
  const startMs = performance.now() - beginMs;
  const record = await readRecord(stateDirectory, shim.namespace, shim.containerId);
  if (record === undefined) throw new Error(`No record of "${shim.containerId}"`);
  return { shim, task, daemon: record.daemon, shimMs, startMs };
}

async function stopMember({ shim, task }: Member): Promise<number> {
  const beginMs = performance.now();
  await task.kill("", 9);
  const { exitCode } = await task.wait("");
  if (exitCode !== 137) throw new Error(`"${shim.containerId}" ended with exit code ${exitCode}`);
  await task.delete("");
  await task.shutdown();
  await deleteShim(shim);
  return performance.now() - beginMs;
}
