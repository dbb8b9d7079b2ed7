import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../../src/config/config.ts";
import { loadConfig } from "../../src/config/load.ts";
import { createCli } from "../support/cli.ts";
import { startContainerd } from "../support/containerd.ts";
import { expectNoLeaks, takeSnapshot } from "../support/leaks.ts";
import type { Bench, Benchmark } from "./bench.ts";
import { coldStart } from "./cold-start.ts";
import { exec } from "./exec.ts";
import { files } from "./files.ts";
import { fleet } from "./fleet.ts";
import { findFloorFiles } from "./floor.ts";
import { frontDoors } from "./front-doors.ts";
import { guestImage } from "./guest-image.ts";
import { library } from "./library.ts";
import { describeMachine, findVersions, readLoad } from "./machine.ts";
import { memory } from "./memory.ts";
import { network } from "./network.ts";
import { parallelStarts } from "./parallel.ts";
import { formatResults, writeCharts } from "./report.ts";
import type { Row } from "./rows.ts";
import { runcRuntime, runTrue } from "./runtimes.ts";
import { shimCommands } from "./shim-commands.ts";
import { templates } from "./templates.ts";
import { throughput } from "./throughput.ts";
import { warmStart } from "./warm-start.ts";

const benchmarks: readonly Benchmark[] = [
  coldStart,
  warmStart,
  guestImage,
  parallelStarts,
  exec,
  shimCommands,
  throughput,
  network,
  files,
  memory,
  fleet,
  library,
  templates,
  frontDoors,
];

const root = join(import.meta.dirname, "../..");
const resultsPath = join(root, "build/bench/results.json");

const begin = performance.now();

try {
  await main();
} catch (error) {
  process.stderr.write(`error: ${describe(error)}\n`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const runs = readRuns(process.env["CAISSON_BENCH_RUNS"]);
  const chosen = choose(process.env["CAISSON_BENCH_ONLY"]);
  const stop = new AbortController();
  // Ctrl-C goes to our children too. The handler only keeps us alive to clean up.
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => stop.abort(new Error(`stopped by ${name}`)));
  }

  const floorFiles = findFloorFiles();
  progress("preparing: image, containerd, a first container of each runtime");
  const loadBefore = readLoad();
  await using cli = await createCli();
  await using containerd = await startContainerd();
  const config = loadConfig({
    environment: { CAISSON_CONFIG: cli.dir.join("caisson.toml") },
    executableDirectory: join(root, "build/bin"),
  });
  await runTrue(containerd, runcRuntime, "runc");

  const bench: Bench = {
    runs,
    config,
    floorFiles,
    cli,
    containerd,
    signal: stop.signal,
    progress,
  };
  // What the library and the daemons of many keep on purpose.
  mkdirSync(cli.dir.join("data/sandboxes"), { mode: 0o700 });
  mkdirSync(containerd.dir.join("run/.node"), { recursive: true, mode: 0o700 });
  const before = await Promise.all([cli, containerd].map((made) => takeSnapshot(made.leakScope())));
  const rows: Row[] = [];
  const failures: string[] = [];
  for (const benchmark of chosen) {
    try {
      rows.push(...(await benchmark.run(bench)));
    } catch (error) {
      failures.push(`${benchmark.name}: ${describe(error)}`);
      progress(`failed: ${failures.at(-1)}`);
      await Promise.all([cli.removeAll(), containerd.removeAll()]);
    }
    if (stop.signal.aborted) break;
  }
  for (const snapshot of before) {
    await expectNoLeaks(snapshot).catch((error: unknown) => failures.push(`left behind: ${describe(error)}`));
  }

  for (const failure of failures) process.stderr.write(`FAILED    ${failure}\n`);
  if (failures.length > 0) process.exitCode = 1;
  // The results of a whole run stay.
  if (!stop.signal.aborted) await report(config, { rows, failures, loadBefore });
}

interface Outcome {
  readonly rows: readonly Row[];
  readonly failures: readonly string[];
  readonly loadBefore: readonly number[];
}

/** Writes results.json and the charts, and prints the table. */
async function report(config: Config, { rows, failures, loadBefore }: Outcome): Promise<void> {
  const machine = await describeMachine(config);
  const versions = await findVersions(config, root, process.env["CAISSON_TEST_CONTAINERD"] ?? "");
  const results = { machine, versions, load: { before: loadBefore, after: readLoad() }, failures, rows };
  mkdirSync(join(resultsPath, ".."), { recursive: true });
  writeFileSync(resultsPath, `${JSON.stringify(results, undefined, 2)}\n`);
  // Half of the machine is somebody else's.
  const wasBusy = (loadBefore[0] ?? 0) > machine.cores / 2;
  const isWhole = process.env["CAISSON_BENCH_ONLY"] === undefined && failures.length === 0 && !wasBusy;
  const charts = isWhole ? "docs/benchmarks" : "build/bench/charts";
  writeCharts(join(root, charts), results);
  process.stdout.write(`${formatResults(results)}results   ${resultsPath}\ncharts    ${charts}/README.md\n`);
  if (wasBusy)
    process.stdout.write("warning   the machine was busy before the start: these figures say little\n");
}

function progress(text: string): void {
  process.stderr.write(`    [${((performance.now() - begin) / 1000).toFixed(0).padStart(4)} s] ${text}\n`);
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message}: ${describe(error.cause)}`;
}

function readRuns(text = "10"): number {
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1 || number > 1000)
    throw new Error(
      `Cannot measure CAISSON_BENCH_RUNS="${text}" times: expected a whole number from 1 to 1000`,
    );
  return number;
}

function choose(pattern = ""): readonly Benchmark[] {
  const expression = new RegExp(pattern, "i");
  const matching = benchmarks.filter(({ name }) => expression.test(name));
  if (matching.length > 0) return matching;
  const names = benchmarks.map(({ name }) => `"${name}"`).join(", ");
  throw new Error(`CAISSON_BENCH_ONLY="${pattern}" matches none of ${names}`);
}
