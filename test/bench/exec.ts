import { image } from "../support/cli.ts";
import { type Bench, type Benchmark, eachRound } from "./bench.ts";
import { measureCrunExec } from "./floor.ts";
import { makeRow } from "./rows.ts";
import { ms, startRuncTask, succeeded } from "./runtimes.ts";

const group = "exec of true";
const group100 = "a hundred execs";
/** Of containerd, in its directory: the bundles of its namespaces. */
const taskDirectory = "state/io.containerd.runtime.v2.task";
const manyExecs = 100;
/** Of the hundred: the first so many against the last. */
const endExecs = 10;

/**
 * `true` in a container that runs, from the start of the command to its end, by each front door in turn; the floor is `crun exec`
 * of the same in a guest that has the container's root from the same share, between two words of a script that is PID 1. Beside it
 * stands the same with the root in the guest's memory: what crun takes without the share.
 */
export const exec: Benchmark = {
  name: group,
  async run(bench) {
    const { containerd, cli, runs } = bench;
    const floorRuns = Math.max(10, runs);
    const floorOptions = { ...bench, files: bench.floorFiles, dir: containerd.dir };
    bench.progress(`${group}: crun exec in a guest`);
    const inMemory = await measureCrunExec(floorOptions, floorRuns);
    let floor: readonly number[];
    const ctr: number[] = [];
    const runc: number[] = [];
    const command: number[] = [];
    const many: number[] = [];
    {
      await using task = await containerd.startTask([], containerd.id("exec"), "sleep", "100000");
      await using runcTask = await startRuncTask(containerd, "runc-exec");
      await using container = await startWithCli(bench);
      const root = containerd.dir.join(taskDirectory, containerd.namespace, runcTask.id, "rootfs");
      floor = await measureCrunExec(floorOptions, floorRuns, root);
      await eachRound(bench, group, runs, async (round) => {
        ctr.push(await execWithCtr(bench, task, round));
        runc.push(await execWithCtr(bench, runcTask, round));
        command.push(succeeded(await cli.run(["exec", container.id, "true"])).durationMs);
        return `ctr ${ms(ctr.at(-1))}, caisson ${ms(command.at(-1))}, runc ${ms(runc.at(-1))}`;
      });
    }
    await using task = await containerd.startTask([], containerd.id("execs"), "sleep", "100000");
    for (let count = 1; count <= manyExecs; count++) {
      bench.signal.throwIfAborted();
      many.push(await execWithCtr(bench, task, count));
      if (count % 20 === 0) bench.progress(`${group100}: ${count}/${manyExecs}`);
    }
    const first = many.slice(0, endExecs);
    return [
      makeRow(group, "crun exec in the guest, root in its memory", "ms", inMemory),
      makeRow(group, "floor: crun exec in the guest", "ms", floor),
      makeRow(group, "ctr task exec", "ms", ctr, { floor, goal: { of: "ratio", is: "at most", value: 3 } }),
      makeRow(group, "caisson exec", "ms", command, { floor }),
      makeRow(group, "ctr task exec with runc", "ms", runc),
      makeRow(group100, "the first ten", "ms", first),
      // A tenth for what varies.
      makeRow(group100, "the last ten", "ms", many.slice(-endExecs), {
        floor: first,
        goal: { of: "ratio", is: "at most", value: 1.1 },
      }),
    ];
  },
};

async function execWithCtr(
  { containerd }: Bench,
  { id }: { readonly id: string },
  number: number,
): Promise<number> {
  const args = ["task", "exec", "--exec-id", `e${number}`, "--fifo-dir", containerd.dir.join("fifo"), id];
  return (await containerd.ctrOk([...args, "true"])).durationMs;
}

async function startWithCli({ cli }: Bench) {
  const id = cli.id("exec");
  succeeded(await cli.run(["run", "--detach", "--name", id, image, "sleep", "100000"]));
  return {
    id,
    [Symbol.asyncDispose]: async () => {
      await cli.run(["rm", "--force", id]);
    },
  };
}
