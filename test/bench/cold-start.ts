import { runtime } from "../support/containerd.ts";
import { image } from "../support/cli.ts";
import { type Benchmark, eachRound } from "./bench.ts";
import { prepareFloor } from "./floor.ts";
import { collectPhases, parsePhases, type PrintedPhase } from "./phases.ts";
import { makeRow, type Row } from "./rows.ts";
import { ms, runcRuntime, runTrue, succeeded } from "./runtimes.ts";

const group = "cold start";

/** From the start of the command to its end, `true` being run in between; all four in turn, round by round. */
export const coldStart: Benchmark = {
  name: group,
  async run(bench) {
    const { containerd } = bench;
    const bootFloor = await prepareFloor({ ...bench, files: bench.floorFiles, dir: containerd.dir });
    const samples = { hello: [], floor: [], cli: [], ctr: [], beyond: [], runc: [] } as Record<
      "hello" | "floor" | "cli" | "ctr" | "beyond" | "runc",
      number[]
    >;
    const runs: { totalMs: number; phases: readonly PrintedPhase[] }[] = [];
    // The kernel and QEMU are read into the page cache before anything counts.
    await bootFloor();
    await eachRound(bench, group, bench.runs, async (round) => {
      const floor = await bootFloor();
      const cli = succeeded(await bench.cli.run(["run", "--rm", "--timeline", image, "true"]));
      const ctr = await runTrue(containerd, runtime, `cold-${round}`);
      const runc = await runTrue(containerd, runcRuntime, `runc-${round}`);
      samples.hello.push(floor.helloMs);
      samples.floor.push(floor.exitMs);
      samples.cli.push(cli.durationMs);
      samples.ctr.push(ctr);
      samples.beyond.push(ctr - floor.exitMs);
      samples.runc.push(runc);
      runs.push({ totalMs: cli.durationMs, phases: parsePhases(cli.stderr) });
      return `floor ${ms(floor.exitMs)}, caisson run ${ms(cli.durationMs)}, ctr ${ms(ctr)}, ctr with runc ${ms(runc)}`;
    });
    const { floor } = samples;
    return [
      makeRow(group, "floor: QEMU to init's hello", "ms", samples.hello),
      makeRow(group, "floor: QEMU to reset", "ms", floor),
      makeRow(group, "caisson run --rm", "ms", samples.cli, { floor }),
      makeRow(group, "ctr run --rm", "ms", samples.ctr, {
        floor,
        goal: { of: "ratio", is: "at most", value: 1.25 },
      }),
      makeRow(group, "ctr run --rm, beyond the floor", "ms", samples.beyond, {
        goal: { of: "median", is: "at most", value: 150 },
      }),
      makeRow(group, "ctr run --rm with runc", "ms", samples.runc),
      ...phaseRows(runs),
    ];
  },
};

function phaseRows(runs: Parameters<typeof collectPhases>[0]): Row[] {
  return collectPhases(runs).map(({ name, isInner, samples }) =>
    makeRow("phases of caisson run", `${isInner ? "  " : ""}${name}`, "ms", samples),
  );
}
