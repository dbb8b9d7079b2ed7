import { appendFileSync } from "node:fs";
import { describe } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";

/** Where errors go, as the global flags say. */
export interface Reporting {
  /** A file; undefined: stderr. */
  readonly path: string | undefined;
  readonly format: "text" | "json";
}

const maxMessageLength = 8 * 1024;

/**
 * Says what went wrong in the form of runc: a line in the log that callers read (containerd and Podman take the last
 * one), and when that is a file, the bare message on stderr too.
 */
export function report(error: unknown, { path, format }: Reporting, prefix = ""): void {
  const message = foreignText(`${prefix}${messageOf(error)}`, maxMessageLength);
  const line = format === "json" ? jsonLine(message) : textLine(message);
  if (path === undefined) {
    process.stderr.write(line);
    return;
  }
  try {
    appendFileSync(path, line, { mode: 0o600 });
  } catch (cause) {
    process.stderr.write(textLine(`Cannot write the log "${path}": ${describe(cause)}`));
  }
  process.stderr.write(`${message}\n`);
}

/** An error of the clean-up stands behind the one that led to it. */
function messageOf(error: unknown): string {
  if (error instanceof SuppressedError)
    return `${messageOf(error.suppressed)}; then: ${messageOf(error.error)}`;
  return describe(error);
}

/** Seconds, as logrus writes them. */
function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, "Z");
}

function jsonLine(msg: string): string {
  return `${JSON.stringify({ level: "error", msg, time: now() })}\n`;
}

function textLine(msg: string): string {
  return `time="${now()}" level=error msg=${JSON.stringify(msg)}\n`;
}
