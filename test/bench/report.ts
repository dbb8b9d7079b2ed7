import { mkdirSync, readdirSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { drawChart } from "./chart.ts";
import type { Machine, Versions } from "./machine.ts";
import type { Row } from "./rows.ts";
import { formatTable } from "./table.ts";

/** Load averages of 1, 5 and 15 minutes. */
export interface Load {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** What results.json holds. */
export interface Results {
  readonly machine: Machine;
  readonly versions: Versions;
  readonly load: Load;
  readonly failures: readonly string[];
  readonly rows: readonly Row[];
}

/** The table and what it was measured on, for a terminal. */
export function formatResults(results: Results): string {
  return `
${formatTable(results.rows)}
${describeRun(results)
  .map(([name, value]) => `${name.padEnd(10)}${value}\n`)
  .join("")}spread    (third quartile - first quartile) / median
`;
}

/**
 * Writes a chart for each group of the rows into `directory`, with a page that shows them all. What an earlier run has drawn
 * there is removed.
 */
export function writeCharts(directory: string, results: Results): void {
  mkdirSync(directory, { recursive: true });
  for (const name of readdirSync(directory)) if (name.endsWith(".svg")) unlinkSync(join(directory, name));
  const footer = describeRun(results).map(([name, value]) => `${name}: ${value}`);
  const charts = groupsOf(results.rows).map(({ group, unit, rows }) => {
    const file = `${fileNameOf(`${group} ${unit}`)}.svg`;
    writeFileSync(join(directory, file), drawChart(rows, footer));
    return { file, title: `${group} (${unit})` };
  });
  writeFileSync(join(directory, "README.md"), formatPage(results, charts));
}

interface Group {
  readonly group: string;
  readonly unit: string;
  readonly rows: readonly Row[];
}

function groupsOf(rows: readonly Row[]): readonly Group[] {
  const groups = new Map<string, Group & { readonly rows: Row[] }>();
  for (const row of rows) {
    const key = `${row.group} ${row.unit}`;
    const known = groups.get(key) ?? { group: row.group, unit: row.unit, rows: [] };
    known.rows.push(row);
    groups.set(key, known);
  }
  return [...groups.values()];
}

function fileNameOf(text: string): string {
  return text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-|-$/g, "");
}

function describeRun({
  machine,
  versions,
  load,
}: Results): readonly (readonly [name: string, value: string])[] {
  const { cpu, cores, memoryMiB, kernel, accelerator, guestMemoryMiB, guestVcpus } = machine;
  return [
    ["machine", `${cpu}, ${cores} cores, ${memoryMiB} MiB, Linux ${kernel}`],
    ["VMs", `${accelerator}, ${machine.machine}, ${guestMemoryMiB} MiB, ${guestVcpus} vCPU`],
    [
      "versions",
      Object.entries(versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(", "),
    ],
    ["load", `${load.before.join(" ")} before, ${load.after.join(" ")} after (1, 5, 15 minutes)`],
  ];
}

function formatPage(
  results: Results,
  charts: readonly { readonly file: string; readonly title: string }[],
): string {
  return `# Benchmarks

Written by \`make bench\`; the numbers of one run are to be compared with each other, not with those of another machine. A bar is the
median, the thin line reaches from the least to the most, the dashed mark is the floor: what the row cannot be better than, measured in
the same run. Green: the goal is met. Red: it is not.

\`\`\`text
${formatResults(results).trim()}
\`\`\`

${charts.map(({ file, title }) => `![${title}](${file})`).join("\n\n")}
`;
}
