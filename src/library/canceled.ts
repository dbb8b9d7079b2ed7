import { RuntimeError } from "../base/errors.ts";

/** Runs `work`, whose failure is `canceled` when the caller's signal has aborted. */
export async function orCanceled<T>(
  what: string,
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!signal?.aborted) throw error;
    throw new RuntimeError("canceled", `Cannot create ${what}: its signal has aborted`, {
      cause: signal.reason,
    });
  }
}
