import type { Containerd } from "../support/containerd.ts";
import { patient } from "../support/patience.ts";

/** Whether the long cases are wanted: `make test-all`. */
export const runsAll = process.env["CAISSON_TEST_LEVEL"] === "all";

/** One line of the acceptance checklist. */
export interface Line {
  readonly name: string;
  /** Why it is not tried; then `run` is not called. */
  readonly skipped?: string;
  /** Longest time that it may take. Default: two minutes. */
  readonly timeoutMs?: number;
  readonly run: (containerd: Containerd) => Promise<void>;
}

/** Waits until a condition holds that nothing announces. */
export async function until(what: string, holds: () => unknown, timeoutMs = 30_000): Promise<void> {
  for (const end = performance.now() + patient(timeoutMs); !(await holds()); ) {
    if (performance.now() > end) throw new Error(`Not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
