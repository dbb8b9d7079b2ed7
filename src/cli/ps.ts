import { describe } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import type { ContainerRecord } from "./container-store.ts";
import { type Host, requireRoot } from "./host.ts";
import { probe } from "./liveness.ts";

export interface PsOptions {
  readonly all: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
}

/** One container as `ps --json` prints it. */
export interface ContainerRow {
  readonly id: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly createdAt: string;
  readonly status: "creating" | "running" | "stopping" | "exited" | "dead" | "unknown";
  readonly exitCode?: number;
  readonly exitedAt?: string;
  /** Why the status is unknown. */
  readonly problem?: string;
}

const commandWidth = 30;

/** `caisson ps`. */
export async function ps(host: Host, options: PsOptions): Promise<number> {
  requireRoot();
  const records = await host.containers.list();
  const rows = await Promise.all(records.map((record) => rowOf(host, record)));
  const shown = rows.filter((row) => options.all || (row.status !== "exited" && row.status !== "dead"));
  process.stdout.write(format(shown, options, new Date()));
  return 0;
}

export function format(rows: readonly ContainerRow[], options: Omit<PsOptions, "all">, now: Date): string {
  if (options.json) return `${JSON.stringify(rows, undefined, 2)}\n`;
  if (options.quiet) return rows.map((row) => `${row.id}\n`).join("");
  const table = [
    ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS"],
    ...rows.map((row) => [
      row.id,
      foreignText(row.image),
      foreignText(row.command.join(" "), commandWidth),
      row.createdAt === "" ? "" : age(row.createdAt, now),
      statusText(row, now),
    ]),
  ];
  const widths =
    table[0]?.map((_, column) => Math.max(...table.map((cells) => cells[column]?.length ?? 0))) ?? [];
  return table
    .map(
      (cells) =>
        `${cells
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join("   ")
          .trimEnd()}\n`,
    )
    .join("");
}

async function rowOf(host: Host, record: ContainerRecord): Promise<ContainerRow> {
  const { id, image, args, createdAt } = record;
  const row = { id, image, command: args, createdAt };
  try {
    const live = await probe(record, host.containers.paths(id).directory);
    if (live.tag === "running") await live.client[Symbol.asyncDispose]();
    if (live.tag !== "exited") return { ...row, status: live.tag };
    return { ...row, status: "exited", exitCode: live.exitCode, exitedAt: live.exitedAt };
  } catch (error) {
    // One daemon that does not answer must not hide the others.
    return { ...row, status: "unknown", problem: describe(error) };
  }
}

function statusText(row: ContainerRow, now: Date): string {
  if (row.status === "exited") return `exited (${row.exitCode}) ${age(row.exitedAt ?? "", now)}`;
  return row.problem === undefined ? row.status : `unknown: ${foreignText(row.problem, 100)}`;
}

function age(since: string, now: Date): string {
  const seconds = Math.max(0, Math.floor((now.getTime() - Date.parse(since)) / 1000));
  for (const [unit, length] of [
    ["day", 86_400],
    ["hour", 3_600],
    ["minute", 60],
  ] as const) {
    const count = Math.floor(seconds / length);
    if (count >= 1) return `${count} ${unit}${count === 1 ? "" : "s"} ago`;
  }
  return `${seconds} second${seconds === 1 ? "" : "s"} ago`;
}
