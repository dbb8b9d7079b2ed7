/** Prints the fault matrix as it came out, and writes it beside the records as faults.md and faults.json. */
import { writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { dirname, join } from "node:path";
import { summarize } from "../bench/statistics.ts";
import { type FaultRow, readRecords, recordsPath, type Samples } from "./rows.ts";

const headings = ["fault", "phase", "s", "exit", "events", "left behind", "remarks"] as const;

const records = readRecords();
const rows = records.flatMap((entry) => (entry.kind === "row" ? [entry.row] : []));
const samples = records.flatMap((entry) => (entry.kind === "samples" ? [entry.samples] : []));
const failed = rows.filter(({ problem }) => problem !== "");
const machine = `${cpus().length} CPUs, load ${loadavg()
  .map((value) => value.toFixed(1))
  .join(" ")} at the end`;

const directory = dirname(recordsPath);
writeFileSync(
  join(directory, "faults.json"),
  `${JSON.stringify({ machine, rows, samples }, undefined, 2)}\n`,
);
writeFileSync(join(directory, "faults.md"), markdown());
process.stdout.write(plain());
if (rows.length === 0) process.exitCode = 1;

function cellsOf(row: FaultRow): string[] {
  const remarks = row.problem === "" ? row.note : `NOT AS PROMISED: ${row.problem}`;
  return [
    row.fault,
    row.phase,
    row.seconds === null ? "" : row.seconds.toFixed(2),
    row.exitCode === null ? "" : String(row.exitCode),
    row.events.join(" "),
    row.left,
    remarks.replace(/\s+/g, " ").slice(0, 300),
  ];
}

function markdown(): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |\n`;
  return [
    "# The fault matrix as it came out\n\n",
    `${explanation()}\n\n`,
    line(headings),
    line(headings.map(() => "---")),
    ...rows.map((row) => line(cellsOf(row))),
    "\n",
    ...samples.map((each) => `${describe(each)}\n`),
  ].join("");
}

/** For a terminal: the last column, which is free text, stands on a line of its own. */
function plain(): string {
  const table = rows.map((row) => cellsOf(row));
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...table.map((cells) => cells[column]?.length ?? 0)),
  );
  const columns = 4;
  const line = (cells: readonly string[]) =>
    [...cells.slice(0, columns).map((cell, column) => cell.padEnd(widths[column] ?? 0)), cells[columns]]
      .join("  ")
      .trimEnd();
  const text = [line(headings), "-".repeat(100)];
  for (const cells of table) {
    const [left = "", remarks = ""] = cells.slice(columns + 1);
    text.push(line(cells));
    if (left !== "nothing") text.push(`    left behind: ${left}`);
    if (remarks !== "") text.push(`    ${remarks}`);
  }
  text.push("", explanation(), ...samples.map(describe));
  return text.map((each) => `${each}\n`).join("");
}

function explanation(): string {
  const verdict = failed.length === 0 ? "all as promised" : `${failed.length} not as promised`;
  return `${rows.length} faults, ${verdict}; nothing is left behind unless a row says so. s: seconds until containerd knew. ${machine}.`;
}

function describe({ name, unit, values }: Samples): string {
  const { n, min, median, max } = summarize(values);
  const [low, middle, high] = [min, median, max].map((value) => value.toFixed(3));
  return `${name}: median of ${n} ${middle} ${unit} (${low} to ${high})`;
}
