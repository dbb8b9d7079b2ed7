/** One line of the table that `caisson run --timeline` prints. */
export interface PrintedPhase {
  readonly name: string;
  /** A phase of the daemon, which lies within one of the command's own. */
  readonly isInner: boolean;
  /** Since the command's start. */
  readonly startMs: number;
  readonly durationMs: number;
}

/** Reads the table out of the command's stderr; empty when it is not there. */
export function parsePhases(stderr: string): PrintedPhase[] {
  return [...stderr.matchAll(/^( *)(\S.*?) +(\d+\.\d) +(\d+\.\d)$/gm)].map((match) => ({
    name: match[2] ?? "",
    isInner: match[1] !== "",
    startMs: Number(match[3]),
    durationMs: Number(match[4]),
  }));
}

/** A phase over several runs. */
export interface PhaseSamples {
  readonly name: string;
  readonly isInner: boolean;
  readonly samples: readonly number[];
}

/**
 * The phases of several runs, phase by phase in the order of their starts in the first run. A run that lacks one counts as
 * 0 there, so that samples stay aligned. What is in none of the command's own phases is added as "unaccounted".
 */
export function collectPhases(
  runs: readonly { readonly totalMs: number; readonly phases: readonly PrintedPhase[] }[],
): PhaseSamples[] {
  const kinds = new Map<string, PrintedPhase>();
  for (const phase of runs.flatMap(({ phases }) => phases)) {
    if (!kinds.has(phase.name)) kinds.set(phase.name, phase);
  }
  const rows = [...kinds.values()].map(({ name, isInner }) => ({
    name,
    isInner,
    samples: runs.map(({ phases }) => phases.find((phase) => phase.name === name)?.durationMs ?? 0),
  }));
  const unaccounted = runs.map(({ totalMs, phases }) =>
    phases.filter(({ isInner }) => !isInner).reduce((rest, { durationMs }) => rest - durationMs, totalMs),
  );
  return [...rows, { name: "unaccounted", isInner: false, samples: unaccounted }];
}
