/**
 * Prints how long RunPodSandbox, CreateContainer and StartContainer take with each handler, one after the other in the same
 * run, with the load of the machine: node pod-time.ts [RUNS]
 */
import { loadavg } from "node:os";
import { type Handler, startCri } from "../support/cri.ts";
import { runPod } from "../support/cri-pod.ts";

const runs = Number(process.argv[2] ?? 5);
const handlers: readonly Handler[] = ["caisson", "caisson-shim", "runc"];

const times = new Map<Handler, number[][]>(handlers.map((handler) => [handler, []]));
await using cri = await startCri();
for (let round = 0; round < runs; round++) {
  for (const handler of handlers) times.get(handler)?.push(await measure(handler));
}
process.stdout.write(
  `Milliseconds, median of ${runs}, crictl's own start included; load ${loadavg()[0]?.toFixed(1)}\n`,
);
process.stdout.write("handler       RunPodSandbox  CreateContainer  StartContainer  together\n");
for (const [handler, rows] of times) {
  const columns = [0, 1, 2].map((part) => median(rows.map((row) => row[part] ?? 0)));
  const together = median(rows.map((row) => row.reduce((sum, part) => sum + part, 0)));
  const [run = 0, create = 0, start = 0] = columns.map(Math.round);
  process.stdout.write(
    `${handler.padEnd(12)}  ${String(run).padStart(13)}  ${String(create).padStart(15)}  ${String(start).padStart(14)}  ${String(Math.round(together)).padStart(8)}\n`,
  );
}

async function measure(handler: Handler): Promise<number[]> {
  const begin = performance.now();
  await using pod = await runPod(cri, handler);
  const ran = performance.now();
  await using container = await pod.create("sleep", ["sleep", "3600"]);
  const created = performance.now();
  await cri.crictlOk(["start", container.id]);
  return [ran - begin, created - ran, performance.now() - created];
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
