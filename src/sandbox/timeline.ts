/** One measured part of a start. Times are relative to the start of the shim's process. */
export interface Phase {
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
}

/** Collects how long the parts of a start took. */
export class Timeline {
  readonly #phases: Phase[] = [];

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
    this.#phases.push({ name, startMs: round(startMs), durationMs: round(durationMs) });
  }
}

function round(milliseconds: number): number {
  return Math.round(milliseconds * 10) / 10;
}
