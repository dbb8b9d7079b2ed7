import type { Config } from "../../src/config/config.ts";
import type { Cli } from "../support/cli.ts";
import type { Containerd } from "../support/containerd.ts";
import type { FloorFiles } from "./floor.ts";
import type { Row } from "./rows.ts";

/** What every benchmark works with. */
export interface Bench {
  /** How often each thing is measured. */
  readonly runs: number;
  readonly config: Config;
  readonly floorFiles: FloorFiles;
  readonly cli: Cli;
  readonly containerd: Containerd;
  /** Aborts when the user has had enough. */
  readonly signal: AbortSignal;
  /** One line for the person who waits. */
  progress(text: string): void;
}

/** A group of measurements that are taken together. */
export interface Benchmark {
  /** What CAISSON_BENCH_ONLY chooses by. */
  readonly name: string;
  /** Containers that it leaves when it fails are removed by the caller. */
  run(bench: Bench): Promise<readonly Row[]>;
}

/** Calls `work` once per round, with the progress shown. */
export async function eachRound(
  bench: Bench,
  name: string,
  runs: number,
  work: (round: number) => Promise<string>,
): Promise<void> {
  for (let round = 1; round <= runs; round++) {
    bench.signal.throwIfAborted();
    bench.progress(`${name} ${round}/${runs}: ${await work(round)}`);
  }
}
