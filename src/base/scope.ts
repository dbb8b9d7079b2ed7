import { RuntimeError } from "./errors.ts";

/** A child signal with a deadline. Disposing it clears the timer and the listener on the parent. */
export interface Scope extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * Limits a piece of work: its signal aborts when `parent` does (with the parent's reason) or after `timeoutMs`
 * (with `deadline_exceeded` and `what` in the message).
 *
 * Used instead of `AbortSignal.any`, which keeps memory per call on a long-lived parent.
 */
export function scope(parent: AbortSignal | undefined, timeoutMs: number, what: string): Scope {
  const controller = new AbortController();
  const onAbort = () => controller.abort(parent?.reason);
  if (parent?.aborted) onAbort();
  parent?.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(() => {
    controller.abort(
      new RuntimeError("deadline_exceeded", `Cannot finish ${what}: no result within ${timeoutMs} ms`),
    );
  }, timeoutMs);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      clearTimeout(timer);
      parent?.removeEventListener("abort", onAbort);
    },
  };
}

/** Resolves or rejects with `work`, or rejects with the signal's reason when that comes first. */
export async function abortable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  // Once the signal's reason was thrown nobody asks for the failure of the work any more.
  work.catch(() => {});
  signal.throwIfAborted();
  let onAbort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Resolves with `work`, or with `fallback` after `timeoutMs`. Never rejects because of the time. */
export async function within<T, F>(work: Promise<T>, timeoutMs: number, fallback: F): Promise<T | F> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<F>((resolve) => {
    timer = setTimeout(() => resolve(fallback), timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
