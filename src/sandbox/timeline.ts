import { describe } from "../base/errors.ts";
import { writeFileAtomic } from "../base/files.ts";
import type { Log } from "../base/log.ts";
import { daemonTracks, formatTrace } from "./trace.ts";

/** One measured part of a start. Times are relative to the start of the shim's process, or to when it was taken from the pool. */
export interface Phase {
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
}

/** Collects how long the parts of a start took. */
export class Timeline {
  readonly #phases: Phase[] = [];
  #programMs: number | undefined;
  readonly #onPhase: ((phase: Phase) => void) | undefined;
  readonly #originMs: number;

  /**
   * @param clock.originMs   what the phases count from, on the clock of `performance.now()`
   * @param clock.programMs  on the same clock, when the process had made itself ready for the first request; that is awaited
   */
  constructor(
    onPhase?: (phase: Phase) => void,
    { originMs = 0, programMs }: { originMs?: number | undefined; programMs?: number | undefined } = {},
  ) {
    this.#onPhase = onPhase;
    this.#originMs = originMs;
    if (programMs === undefined) return;
    this.#programMs = programMs;
    this.add("daemon", originMs, programMs - originMs);
  }

  /** The first request has come. */
  onRequest(): void {
    if (this.#programMs === undefined) return;
    this.add("request", this.#programMs, performance.now() - this.#programMs);
    this.#programMs = undefined;
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
  async save(
    paths: { readonly timeline: string; readonly trace?: string | undefined },
    log: Log,
  ): Promise<void> {
    try {
      await writeFileAtomic(paths.timeline, JSON.stringify(this.#phases));
      if (paths.trace !== undefined)
        await writeFileAtomic(paths.trace, formatTrace(daemonTracks(this.#phases)));
    } catch (error) {
      log.warn({ error: describe(error) }, "cannot write the timeline");
    }
  }
}

function round(milliseconds: number): number {
  return Math.round(milliseconds * 10) / 10;
}
