import { medianOf, summarize, type Summary } from "./statistics.ts";

export type Unit = "ms" | "MiB" | "MiB/s" | "daemons";

/** What is wanted of a row: of its ratio to the floor, or of its median in the row's unit. */
export interface Goal {
  readonly of: "ratio" | "median";
  readonly is: "at most" | "at least";
  readonly value: number;
}

/** One line of the results. Fields are added over time, none changes its meaning: results of revisions are compared. */
export interface Row extends Summary {
  /** Rows of a group stand together and share a chart. */
  readonly group: string;
  /** Unique within its group; what the row is known by from run to run. */
  readonly name: string;
  readonly unit: Unit;
  /** Median of what this row cannot be better than, measured in the same run between this row's samples. */
  readonly floor: number | null;
  /** `median / floor` */
  readonly ratio: number | null;
  readonly goal: Goal | null;
  readonly met: boolean | null;
  /** In the order in which they were measured; the same index is the same round in every row of the group. */
  readonly samples: readonly number[];
}

export interface RowOptions {
  readonly floor?: readonly number[];
  readonly goal?: Goal;
}

export function makeRow(
  group: string,
  name: string,
  unit: Unit,
  samples: readonly number[],
  options: RowOptions = {},
): Row {
  const summary = summarize(samples);
  const floor = options.floor === undefined ? null : medianOf(options.floor);
  const ratio = floor === null || floor === 0 ? null : summary.median / floor;
  const goal = options.goal ?? null;
  const rounded = samples.map((sample) => round(sample));
  return {
    group,
    name,
    unit,
    n: summary.n,
    min: round(summary.min),
    median: round(summary.median),
    max: round(summary.max),
    spread: round(summary.spread),
    floor: floor === null ? null : round(floor),
    ratio: ratio === null ? null : round(ratio),
    goal,
    met: goal === null ? null : isMet(goal, summary.median, ratio),
    samples: rounded,
  };
}

/** False where there is no ratio to judge: a goal that is not measured is not met. */
function isMet({ of, is, value }: Goal, median: number, ratio: number | null): boolean {
  const reached = of === "median" ? median : ratio;
  if (reached === null) return false;
  return is === "at most" ? reached <= value : reached >= value;
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
