import { runtime } from "../support/containerd.ts";
import { type Benchmark, eachRound } from "./bench.ts";
import { prepareFloor } from "./floor.ts";
import { makeRow } from "./rows.ts";
import { ms, runcRuntime, runTrue } from "./runtimes.ts";

const group = "parallel starts, until the last one has ended";
const counts = [1, 2, 4, 8] as const;
/** Eight starts at once take long on a small machine. */
const mostRuns = 5;

/** So many `ctr run --rm … true` at once; the floor is as many of the cold start's floor at once. */
export const parallelStarts: Benchmark = {
  name: "parallel starts",
  async run(bench) {
    const { containerd } = bench;
    const bootFloor = await prepareFloor({ ...bench, files: bench.floorFiles, dir: containerd.dir });
    const samples = counts.map((count) => ({
      count,
      floor: [] as number[],
      ctr: [] as number[],
      runc: [] as number[],
    }));
    await eachRound(bench, "parallel starts", Math.min(mostRuns, bench.runs), async (round) => {
      for (const { count, floor, ctr, runc } of samples) {
        const all = async (start: (name: string) => Promise<unknown>) => {
          const beginMs = performance.now();
          await Promise.all(Array.from({ length: count }, (_, index) => start(`${round}-${count}-${index}`)));
          return performance.now() - beginMs;
        };
        floor.push(await all(bootFloor));
        ctr.push(await all((name) => runTrue(containerd, runtime, `at-once-${name}`)));
        runc.push(await all((name) => runTrue(containerd, runcRuntime, `runc-at-once-${name}`)));
      }
      return samples.map(({ count, ctr }) => `${count}: ${ms(ctr.at(-1))}`).join(", ");
    });
    return samples.flatMap(({ count, floor, ctr, runc }) => [
      makeRow(group, `${count} × floor`, "ms", floor),
      makeRow(group, `${count} × ctr run --rm`, "ms", ctr, { floor }),
      makeRow(group, `${count} × ctr run --rm with runc`, "ms", runc),
    ]);
  },
};
