/** The commands that tell what there is: state, list, ps. */
import { describe, RuntimeError } from "../base/errors.ts";
import { exec } from "../base/exec.ts";
import { isAlive } from "../base/processes.ts";
import { proxiesOf } from "./delete.ts";
import type { Host } from "./host.ts";
import { type Status, statusOf } from "./probe.ts";
import type { ContainerRecord } from "./store.ts";

/** As runc prints it: the owner only in a list. */
interface StateDocument {
  readonly ociVersion: string;
  readonly id: string;
  readonly pid: number;
  readonly status: Status;
  readonly bundle: string;
  readonly rootfs: string;
  readonly created: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly owner: string;
}

export async function state(host: Host, id: string): Promise<number> {
  const document = { ...(await documentOf(host, await host.containers.load(id))), owner: "" };
  process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
  return 0;
}

export type ListFormat = "table" | "json" | "quiet";

export async function list(host: Host, format: ListFormat): Promise<number> {
  const records = await host.containers.list((id, error) => {
    process.stderr.write(`load container ${id}: ${describe(error)}\n`);
  });
  if (format === "quiet") {
    for (const { id } of records) process.stdout.write(`${id}\n`);
    return 0;
  }
  const documents = await Promise.all(records.map((record) => documentOf(host, record)));
  // An empty list of Go is "null", and so callers know it.
  const json = () => `${documents.length === 0 ? "null" : JSON.stringify(documents)}\n`;
  process.stdout.write(format === "json" ? json() : table(documents));
  return 0;
}

/** The processes on the host that stand for those in the guest, which have no pids here. */
export async function ps(
  host: Host,
  id: string,
  format: "table" | "json",
  psArgs: readonly string[],
): Promise<number> {
  const record = await host.containers.load(id);
  const proxies = (await statusOf(host, record)) === "stopped" ? [] : await proxiesOf(host, id);
  const pids = proxies.filter(isAlive).map(({ pid }) => pid);
  if (format === "json") {
    process.stdout.write(`${JSON.stringify(pids)}\n`);
    return 0;
  }
  const output = await exec(["ps", ...(psArgs.length === 0 ? ["-ef"] : psArgs)]);
  const [header = "", ...lines] = output.trimEnd().split("\n");
  const column = header.trim().split(/\s+/).indexOf("PID");
  if (column === -1) throw new RuntimeError("invalid_argument", "couldn't find PID field in ps output");
  const wanted = new Set(pids.map(String));
  const shown = lines.filter((line) => wanted.has(line.trim().split(/\s+/)[column] ?? ""));
  process.stdout.write(`${[header, ...shown].join("\n")}\n`);
  return 0;
}

async function documentOf(host: Host, record: ContainerRecord): Promise<StateDocument> {
  const { id, ociVersion, bundle, rootfs, createdAt, annotations, proxy } = record;
  const status = await statusOf(host, record);
  return {
    ociVersion,
    id,
    pid: status === "stopped" ? 0 : proxy.pid,
    status,
    bundle,
    rootfs,
    created: createdAt,
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
    owner: "root",
  };
}

function table(documents: readonly StateDocument[]): string {
  const rows = [
    ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"],
    ...documents.map(({ id, pid, status, bundle, created, owner }) => [
      id,
      String(pid),
      status,
      bundle,
      created,
      owner,
    ]),
  ];
  const minimum = 12;
  const gap = 3;
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(minimum, ...rows.map((row) => (row[column] ?? "").length + gap)),
  );
  const lines = rows.map((row) =>
    row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join(""),
  );
  return `${lines.join("\n")}\n`;
}
