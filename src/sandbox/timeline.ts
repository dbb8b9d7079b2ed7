import { describe } from "../base/errors.ts";
import { writeFileAtomic } from "../base/files.ts";
import type { Log } from "../base/log.ts";

/** One measured part of a start. Times are relative to the start of the shim's process, or to when it was taken from the pool. */
export interface Phase {
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
}

/** Collects how long the parts of a start took. */
export class Timeline {
  readonly #phases: Phase[] = [];
  readonly #onPhase: ((phase: Phase) => void) | undefined;
  readonly #originMs: number;

  /** @param originMs  what the phases count from, on the clock of `performance.now()` */
  constructor(onPhase?: (phase: Phase) => void, originMs = 0) {
    this.#onPhase = onPhase;
    this.#originMs = originMs;
  }

  get phases(): readonly Phase[] {
    return this.#phases;
  }

  /** Measures `work`; a failed part is recorded too. */
  async measure<T>(name: string, work: () => Promise<T>): Promise<T> {
    const startMs = performance.now();
    try {
      return await work();
    } finally {
      this.add(name, startMs, performance.now() - startMs);
    }
  }

  add(name: string, startMs: number, durationMs: number): void {
    const phase = { name, startMs: round(startMs - this.#originMs), durationMs: round(durationMs) };
    this.#phases.push(phase);
    this.#onPhase?.(phase);
  }

  /** Best effort: a file that cannot be written is logged. */
  async save(path: string, log: Log): Promise<void> {
    await writeFileAtomic(path, JSON.stringify(this.#phases)).catch((error: unknown) => {
      log.warn({ error: describe(error) }, "cannot write the timeline");
    });
  }
}

function round(milliseconds: number): number {
  return Math.round(milliseconds * 10) / 10;
}
