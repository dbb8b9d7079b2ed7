import type { Row } from "./rows.ts";
import { summarize, type Summary } from "./statistics.ts";
import { formatColumns, formatNumber } from "./table.ts";

/** The medians of one row in every pair of runs. */
export interface PairedRow {
  readonly group: string;
  readonly name: string;
  readonly unit: string;
  readonly base: Summary;
  readonly head: Summary;
  /** Of head to base, pair by pair. */
  readonly ratio: Summary;
}

/** Rows that every run has, in the order of the first one. A row that is 0 has no ratio and is left out. */
export function pairRows(
  runs: readonly { readonly base: readonly Row[]; readonly head: readonly Row[] }[],
): readonly PairedRow[] {
  const [first] = runs;
  return (first?.head ?? []).flatMap(({ group, name, unit }) => {
    const medianIn = (rows: readonly Row[]) =>
      rows.find((row) => row.group === group && row.name === name)?.median ?? 0;
    const base = runs.map((run) => medianIn(run.base));
    const head = runs.map((run) => medianIn(run.head));
    if (![...base, ...head].every((median) => median > 0)) return [];
    const ratio = head.map((median, index) => median / (base[index] ?? Number.NaN));
    return [{ group, name, unit, base: summarize(base), head: summarize(head), ratio: summarize(ratio) }];
  });
}

const headings = ["", "n", "base", "head", "ratio", "least", "most", "spread"];

/** For a terminal: medians, and how far the ratios of the pairs are apart. */
export function formatPairs(rows: readonly PairedRow[]): string {
  return formatColumns(
    headings,
    rows.map(({ group, name, unit, base, head, ratio }) => ({
      title: `${group} (${unit})`,
      cells: [
        `  ${name}`,
        String(ratio.n),
        formatNumber(base.median),
        formatNumber(head.median),
        ratio.median.toFixed(3),
        ratio.min.toFixed(3),
        ratio.max.toFixed(3),
        `${Math.round(ratio.spread * 100)} %`,
      ],
    })),
  );
}
