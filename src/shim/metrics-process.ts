import { readdirSync, readFileSync } from "node:fs";
import { type Family, familyOf } from "../base/metrics.ts";
import { definitions } from "./metrics-definitions.ts";

/** What every program with metrics says about itself, by the names that Prometheus has given it. */
export function processFamilies(startTimeSeconds: number): Family[] {
  const { user, system } = process.cpuUsage();
  const pageCount = readNumber("/proc/self/statm", /^(\d+)/);
  return [
    familyOf(definitions.cpuSeconds, [[{}, (user + system) / 1e6]]),
    familyOf(definitions.startTime, [[{}, startTimeSeconds]]),
    familyOf(definitions.residentBytes, [[{}, process.memoryUsage.rss()]]),
    familyOf(definitions.virtualBytes, optional(pageCount && pageCount * pageBytes)),
    familyOf(definitions.openFds, optional(countFds())),
    familyOf(definitions.maxFds, optional(readNumber("/proc/self/limits", /^Max open files\s+(\d+)/m))),
  ];
}

/** On x86-64. */
const pageBytes = 4096;

/** A value that cannot be read is left out. */
function optional(value: number | undefined): [Record<never, string>, number][] {
  return value === undefined ? [] : [[{}, value]];
}

function readNumber(path: string, pattern: RegExp): number | undefined {
  try {
    const digits = pattern.exec(readFileSync(path, "latin1"))?.[1];
    return digits === undefined ? undefined : Number(digits);
  } catch {
    // Out of file descriptors: the other values are of use all the more.
    return undefined;
  }
}

function countFds(): number | undefined {
  try {
    // One of them is the directory that is being read.
    return readdirSync("/proc/self/fd").length - 1;
  } catch {
    return undefined;
  }
}
