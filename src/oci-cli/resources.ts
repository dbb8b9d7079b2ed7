import { text as readText } from "node:stream/consumers";
import { RuntimeError } from "../base/errors.ts";
import { readRegularFile } from "../base/files.ts";
import { isRawNumber, parseStrictJson } from "../base/strict-json.ts";
import type { FlagValues } from "./flags.ts";

const maxBytes = 4 * 1024 * 1024;

/** Flags of `update` by their place in OCI `LinuxResources`. */
const places: ReadonlyMap<string, readonly [string, string]> = new Map([
  ["cpu-period", ["cpu", "period"]],
  ["cpu-quota", ["cpu", "quota"]],
  ["cpu-share", ["cpu", "shares"]],
  ["memory", ["memory", "limit"]],
  ["memory-reservation", ["memory", "reservation"]],
  ["memory-swap", ["memory", "swap"]],
  ["pids-limit", ["pids", "limit"]],
]);

/** What a guest does not have: its CPUs and disks are not the host's. */
export const refusedResources: readonly string[] = [
  "blkio-weight",
  "cpu-rt-period",
  "cpu-rt-runtime",
  "cpuset-cpus",
  "cpuset-mems",
  "l3-cache-schema",
  "mem-bw-schema",
];

export const resourceFlags: readonly string[] = [...places.keys()];

/** The OCI `LinuxResources` that the flags of `update` ask for. @throws invalid_argument, unimplemented */
export async function resourcesOf(flags: FlagValues): Promise<object> {
  const file = flags.text("resources");
  if (file !== undefined) return await readResources(file);
  const refused = flags.given.find((name) => refusedResources.includes(name));
  if (refused !== undefined) {
    throw new RuntimeError(
      "unimplemented",
      `--${refused} is not supported: the guest has CPUs and disks of its own`,
    );
  }
  const resources: Record<string, Record<string, number>> = {};
  for (const [name, [section, field]] of places) {
    const value = flags.text(name);
    if (value !== undefined) (resources[section] ??= {})[field] = amount(name, value);
  }
  return resources;
}

async function readResources(path: string): Promise<object> {
  const bytes =
    path === "-" ? Buffer.from(await readText(process.stdin)) : await readRegularFile(path, maxBytes);
  const resources = parseStrictJson(bytes, path === "-" ? "the resources on stdin" : `"${path}"`);
  if (typeof resources === "object" && resources !== null && !Array.isArray(resources))
    return whatIsSet(resources);
  throw new RuntimeError("invalid_argument", "the resources are no object");
}

/** Limits of the kernel's own memory, which the kernel has given up; runc leaves them out, too. */
const obsolete: ReadonlySet<string> = new Set(["kernel", "kernelTCP"]);

/** Without what stands for "leave it as it is": 0 and empty texts, as Docker sends them for what it was not told. */
function whatIsSet(resources: object): object {
  const set = Object.entries(resources).flatMap(([name, value]: [string, unknown]) => {
    if (value === 0 || value === "" || value === null || obsolete.has(name)) return [];
    if (typeof value !== "object" || Array.isArray(value) || isRawNumber(value))
      return [[name, value] as const];
    const inner = whatIsSet(value);
    return Object.keys(inner).length === 0 ? [] : [[name, inner] as const];
  });
  return Object.fromEntries(set);
}

const units: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1024,
  m: 1024 ** 2,
  g: 1024 ** 3,
  t: 1024 ** 4,
};

/** A number; of memory with a unit, as runc takes it. */
function amount(name: string, text: string): number {
  const [, digits, unit = ""] = /^(-?\d+)([bkmgt]?)b?$/i.exec(text) ?? [];
  const factor = units[unit.toLowerCase()];
  const isPlain = unit === "" || name.startsWith("memory");
  if (digits !== undefined && factor !== undefined && isPlain) return Number(digits) * factor;
  throw new RuntimeError(
    "invalid_argument",
    `invalid value for ${name}: invalid size: '${text.slice(0, 40)}'`,
  );
}
