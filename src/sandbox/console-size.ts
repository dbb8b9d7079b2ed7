import { parseStrictJson } from "../base/strict-json.ts";

export interface ConsoleSize {
  /** 0 when not given. */
  readonly columns: number;
  readonly rows: number;
}

const unknownSize: ConsoleSize = { columns: 0, rows: 0 };

/** The terminal size in an OCI `Process` document (`consoleSize`), as bytes of JSON. @throws invalid_argument */
export function loadConsoleSize(processJson: Uint8Array): ConsoleSize {
  const process = parseStrictJson(processJson, "the process specification");
  if (typeof process !== "object" || process === null || !("consoleSize" in process)) return unknownSize;
  return consoleSizeOf(process["consoleSize"]);
}

/** The terminal size of a `consoleSize` object, 0 each where it is missing or out of range. */
export function consoleSizeOf(value: unknown): ConsoleSize {
  if (typeof value !== "object" || value === null) return unknownSize;
  const { width, height } = value as { width?: unknown; height?: unknown };
  return { columns: size(width), rows: size(height) };
}

function size(value: unknown): number {
  return typeof value === "number" && Number.isInteger(value) && value > 0 && value <= 0xffff ? value : 0;
}
