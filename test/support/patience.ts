/**
 * `CAISSON_TEST_PATIENCE=N` makes every deadline of the suites N times as long, for hosts that are slow as a whole (the
 * lab). Deadlines are for what hangs: nothing passes or fails by the factor that works.
 */
const patience = Number(process.env["CAISSON_TEST_PATIENCE"] ?? "1");
if (!(patience >= 1)) throw new Error("CAISSON_TEST_PATIENCE is not a number of 1 or more");

/** Longer ones end at once, says Node. */
const longestTimerMs = 2 ** 31 - 1;

/** A deadline as it is on this host. */
export function patient(timeoutMs: number): number {
  return Math.min(timeoutMs * patience, longestTimerMs);
}
