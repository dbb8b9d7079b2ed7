import { asError } from "./errors.ts";

/**
 * Ordered undo steps for a thing that is built in stages.
 *
 * Register the release on the line after the acquisition; `move()` hands everything to the owner once the thing
 * stands. Steps run last first and one at a time, because their order matters (unmount before the directory goes).
 */
export class Cleanup implements AsyncDisposable {
  #steps: { name: string; undo: () => unknown }[] = [];

  /** Registers `undo`, named after what it releases. It must be idempotent and bound its own waits. */
  defer(name: string, undo: () => unknown): void {
    this.#steps.push({ name, undo });
  }

  /** Hands every step to a new owner; this one then releases nothing. */
  move(): Cleanup {
    const next = new Cleanup();
    next.#steps = this.#steps;
    this.#steps = [];
    return next;
  }

  /** Runs all steps, last first; failures are collected, none is skipped. Safe to call twice. */
  async [Symbol.asyncDispose](): Promise<void> {
    const errors: Error[] = [];
    for (const { name, undo } of this.#steps.splice(0).reverse()) {
      try {
        await undo();
      } catch (cause) {
        errors.push(new Error(`Cannot release ${name}`, { cause: asError(cause) }));
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, "Cleanup failed");
  }
}
