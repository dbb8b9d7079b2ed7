import { run } from "../support/cli-run.ts";
import { createShimProcess, type Outcome } from "../peer/shim/shim-process.ts";
import { type Benchmark, eachRound } from "./bench.ts";
import { makeRow } from "./rows.ts";

const group = "shim's executable";
const pod = { "io.kubernetes.cri.sandbox-id": "pod" };

/**
 * `start` and `delete` of a second container of a pod, as containerd runs them for each, against a daemon whose sandbox has no VM.
 * The floor is a Node that does nothing.
 */
export const shimCommands: Benchmark = {
  name: "shim commands",
  async run(bench) {
    await using shim = createShimProcess();
    shim.makeBundle("pod", ["sleep"], pod);
    const { client } = await shim.start({ id: "pod" });
    await using _connection = client;
    const samples = { node: [] as number[], start: [] as number[], delete: [] as number[] };
    await eachRound(bench, group, Math.max(20, bench.runs), async (round) => {
      const id = `app-${round}`;
      shim.makeBundle(id, ["sleep"], pod);
      const node = (await run([process.execPath, "-e", "0"])).durationMs;
      const started = millisecondsOf(await shim.run("start", { id }));
      const deleted = millisecondsOf(await shim.run("delete", { id }));
      samples.node.push(node);
      samples.start.push(started);
      samples.delete.push(deleted);
      return `node ${node.toFixed(0)} ms, start ${started.toFixed(0)} ms, delete ${deleted.toFixed(0)} ms`;
    });
    const row = (name: string, values: readonly number[], most: number) =>
      makeRow(group, name, "ms", values, {
        floor: samples.node,
        goal: { of: "median", is: "at most", value: most },
      });
    return [
      makeRow(group, "floor: node -e 0", "ms", samples.node),
      row("start, second container of a pod", samples.start, 20),
      row("delete, second container of a pod", samples.delete, 30),
    ];
  },
};

function millisecondsOf({ exitCode, milliseconds, stderr }: Outcome): number {
  if (exitCode !== 0) throw new Error(`The shim's executable failed: ${stderr}`);
  return milliseconds;
}
