import { setTimeout as sleep } from "node:timers/promises";

export interface HealthOptions {
  /** Time between two looks, and the longest wait for an answer. */
  readonly intervalMs: number;
  /** Ends the watch. */
  readonly signal: AbortSignal;
}

/**
 * How many answers in a row may be missing. Counted in looks that were really made: a host that was suspended has made
 * none in the meantime.
 */
const allowedMisses = 3;

/**
 * Looks at regular intervals whether the guest still answers.
 *
 * @returns resolves with a reason when it does not, and never when the signal ends the watch first; never rejects
 */
export async function watchHealth(
  ping: (signal: AbortSignal) => Promise<unknown>,
  { intervalMs, signal }: HealthOptions,
): Promise<string> {
  for (let misses = 0; misses < allowedMisses; ) {
    try {
      // Does not keep the process alive by itself.
      await sleep(intervalMs, undefined, { signal, ref: false });
    } catch {
      return await new Promise<never>(() => {});
    }
    try {
      await ping(signal);
      misses = 0;
    } catch {
      misses += 1;
    }
  }
  return `the guest did not answer ${allowedMisses} times in a row, every ${intervalMs} ms`;
}
