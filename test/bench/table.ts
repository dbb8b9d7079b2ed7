import type { Goal, Row } from "./rows.ts";

const headings = ["", "n", "min", "median", "max", "spread", "floor", "× floor", "goal", "met"];

/** The rows for a terminal: a table in which each group has a title and its unit. */
export function formatTable(rows: readonly Row[]): string {
  return formatColumns(
    headings,
    rows.map((row) => ({ title: `${row.group} (${row.unit})`, cells: cellsOf(row) })),
  );
}

/** A table in which lines of the same title stand below it. The first column is of words, the others are of numbers. */
export function formatColumns(
  headings: readonly string[],
  lines: readonly { readonly title: string; readonly cells: readonly string[] }[],
): string {
  const widths = headings.map((heading, column) =>
    Math.max(
      heading.length,
      ...lines.map(({ title, cells }) =>
        Math.max(column === 0 ? title.length : 0, cells[column]?.length ?? 0),
      ),
    ),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return column === 0 ? cell.padEnd(width) : cell.padStart(width);
      })
      .join("  ")
      .trimEnd();
  const text: string[] = [];
  let title = "";
  for (const { title: next, cells } of lines) {
    if (next !== title) text.push(...(title === "" ? [] : [""]), line([next, ...headings.slice(1)]));
    title = next;
    text.push(line(cells));
  }
  return text.map((each) => `${each}\n`).join("");
}

function cellsOf(row: Row): string[] {
  return [
    `  ${row.name}`,
    String(row.n),
    formatNumber(row.min),
    formatNumber(row.median),
    formatNumber(row.max),
    `${Math.round(row.spread * 100)} %`,
    row.floor === null ? "" : formatNumber(row.floor),
    row.ratio === null ? "" : row.ratio.toFixed(2),
    row.goal === null ? "" : formatGoal(row.goal),
    row.met === null ? "" : row.met ? "yes" : "no",
  ];
}

export function formatGoal({ of, is, value }: Goal): string {
  return `${is === "at most" ? "≤" : "≥"} ${value}${of === "ratio" ? " ×" : ""}`;
}

/** Three digits that count. */
export function formatNumber(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || value === 0 ? 0 : size >= 10 ? 1 : 2);
}
