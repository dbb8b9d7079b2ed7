/**
 * `node compare.ts BASE_DIRECTORY PAIRS`: runs the benchmarks of another checkout and of this one in turn, one round each, and
 * prints the ratios of the rows that both have. Writes build/bench/compare.json.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { formatPairs, pairRows } from "./pairs.ts";
import type { Results } from "./report.ts";
import type { Row } from "./rows.ts";

const own = join(import.meta.dirname, "../..");
const [base = "", count = ""] = process.argv.slice(2);
const pairs = Number(count);
if (base === "" || !Number.isInteger(pairs) || pairs < 1) {
  throw new Error("Cannot compare: expected the directory of another checkout and a number of pairs");
}
const runs: { base: readonly Row[]; head: readonly Row[] }[] = [];
for (let number = 1; number <= pairs; number++) {
  process.stderr.write(`==> pair ${number} of ${pairs}\n`);
  // Each is first as often as the other: what the first one warms up does not favour one of them.
  const order = number % 2 === 1 ? [base, own] : [own, base];
  const found = new Map<string, readonly Row[]>();
  for (const directory of order) found.set(directory, await measure(directory));
  runs.push({ base: found.get(base) ?? [], head: found.get(own) ?? [] });
}
const compared = pairRows(runs);
writeFileSync(join(own, "build/bench/compare.json"), `${JSON.stringify(compared, undefined, 2)}\n`);
process.stdout.write(formatPairs(compared));

async function measure(directory: string): Promise<readonly Row[]> {
  const child = spawn(join(directory, "scripts/bench"), [], {
    cwd: directory,
    stdio: ["ignore", "ignore", "inherit"],
    env: {
      ...process.env,
      CAISSON_BENCH_RUNS: "1",
      // Said, so that no checkout takes it for a whole run, which draws new charts.
      CAISSON_BENCH_ONLY: process.env["CAISSON_BENCH_ONLY"] ?? ".",
    },
  });
  const [exitCode] = (await once(child, "close")) as [number | null];
  if (exitCode !== 0) throw new Error(`The benchmarks of "${directory}" failed with exit code ${exitCode}`);
  const text = readFileSync(join(directory, "build/bench/results.json"), "utf8");
  return (JSON.parse(text) as Results).rows;
}
