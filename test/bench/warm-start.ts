import { runtime } from "../support/containerd.ts";
import { startPool } from "../support/pool.ts";
import { type Benchmark, eachRound } from "./bench.ts";
import { makeRow } from "./rows.ts";
import { ms, runTrue } from "./runtimes.ts";

const group = "warm start";

/** The same command with a VM of the pool and without, in turn. The pool is there for one start at a time. */
export const warmStart: Benchmark = {
  name: group,
  async run(bench) {
    const { containerd } = bench;
    const cold: number[] = [];
    const warm: number[] = [];
    await eachRound(bench, group, bench.runs, async (round) => {
      const coldMs = await runTrue(containerd, runtime, `no-pool-${round}`);
      await using pool = startPool(containerd, 1);
      await pool.ready(1);
      const warmMs = await runTrue(containerd, runtime, `pool-${round}`);
      cold.push(coldMs);
      warm.push(warmMs);
      return `ctr ${ms(coldMs)}, with a VM of the pool ${ms(warmMs)}`;
    });
    return [
      makeRow(group, "ctr run --rm", "ms", cold),
      makeRow(group, "ctr run --rm, VM of the pool", "ms", warm, {
        floor: cold,
        goal: { of: "ratio", is: "at most", value: 0.2 },
      }),
    ];
  },
};
