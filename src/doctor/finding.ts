import type { Config } from "../config/config.ts";
import type { Probe } from "./probe.ts";

/** `error`: sandboxes cannot run as configured. `warning`: something does not work, or not well. */
export type Status = "ok" | "warning" | "error";

/** What one check has found. */
export interface Finding {
  readonly name: string;
  readonly status: Status;
  /** What is the case. */
  readonly finding: string;
  /** Why it matters; there unless all is well. */
  readonly why?: string;
  /** The command that mends it, or what else to do. */
  readonly remedy?: string;
}

export interface CheckContext {
  readonly probe: Probe;
  readonly config: Config;
}

/** Looks at one thing. Never throws for what it finds. */
export type Check = (context: CheckContext) => Promise<Finding>;

export function ok(name: string, finding: string): Finding {
  return { name, status: "ok", finding };
}

interface Trouble {
  readonly finding: string;
  readonly why: string;
  readonly remedy: string;
}

export function warning(name: string, trouble: Trouble): Finding {
  return { name, status: "warning", ...trouble };
}

export function error(name: string, trouble: Trouble): Finding {
  return { name, status: "error", ...trouble };
}

/** The first version number in a text, as its parts. */
export function versionIn(text: string): readonly number[] | undefined {
  return /\d+(?:\.\d+)+/.exec(text)?.[0].split(".").map(Number);
}

export function isOlder(version: readonly number[], wanted: readonly number[]): boolean {
  const index = wanted.findIndex((part, position) => (version[position] ?? 0) !== part);
  return index >= 0 && (version[index] ?? 0) < (wanted[index] ?? 0);
}
