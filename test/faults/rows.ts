import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** One cell of the fault matrix, as it came out. */
export interface FaultRow {
  readonly fault: string;
  readonly phase: string;
  /** From the fault until containerd knew: its exit event, or the error of the call that failed. Null: nothing to know. */
  readonly seconds: number | null;
  /** Exit status of the container's init, or of the client where no container came to be. */
  readonly exitCode: number | null;
  /** containerd's events about the container, in their order; "exit(e)=255" is that of exec e. */
  readonly events: readonly string[];
  /** What the leak check found after the clean-up that a client makes. */
  readonly left: string;
  /** What else is worth knowing: a message, a time. */
  readonly note: string;
  /** Why it is not as promised; empty: it is. */
  readonly problem: string;
}

/** The times of the measurement that `make test-faults` closes with. */
export interface Samples {
  readonly name: string;
  readonly unit: "s";
  readonly values: readonly number[];
}

export type FaultRecord =
  | { readonly kind: "row"; readonly row: FaultRow }
  | { readonly kind: "samples"; readonly samples: Samples };

/** Where the tests write and the report reads: a line of JSON for each record. `scripts/test-faults` empties it first. */
export const recordsPath =
  process.env["CAISSON_FAULTS_RECORDS"] ?? join(import.meta.dirname, "../../build/test/faults.jsonl");

export function record(entry: FaultRecord): void {
  mkdirSync(dirname(recordsPath), { recursive: true });
  appendFileSync(recordsPath, `${JSON.stringify(entry)}\n`);
}

export function readRecords(): FaultRecord[] {
  if (!existsSync(recordsPath)) return [];
  return readFileSync(recordsPath, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as FaultRecord);
}
