import { createLog, type Log } from "../base/log.ts";
import type { LogEntry } from "./options.ts";

/** The log of one sandbox as calls of `onLog`, else as warnings of the process. */
export function createSandboxLog(
  sandboxId: string,
  level: string,
  onLog: ((entry: LogEntry) => void) | undefined,
): Log {
  const write = onLog ?? warn;
  const destination = { write: (line: string) => write(toEntry(line)) };
  return createLog(onLog === undefined ? "warn" : level, destination).child({ sandbox: sandboxId });
}

const levels: ReadonlyMap<unknown, LogEntry["level"]> = new Map([
  [20, "debug"],
  [30, "info"],
  [40, "warn"],
  [50, "error"],
]);

function toEntry(line: string): LogEntry {
  const { level, msg, time: _time, ...fields } = JSON.parse(line) as Record<string, unknown>;
  return { level: levels.get(level) ?? "error", message: typeof msg === "string" ? msg : "", fields };
}

function warn({ message, fields }: LogEntry): void {
  const { sandbox, error } = fields;
  const detail = typeof error === "string" ? `: ${error}` : "";
  process.emitWarning(`sandbox ${String(sandbox)}: ${message}${detail}`, "CaissonWarning");
}
