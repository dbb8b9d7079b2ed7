import { type DestinationStream, type Logger, pino } from "pino";

/** Structured lines with a level; `with` adds fields (sandbox, container, exec ids) to every line. */
export type Log = Logger;

/** Longest text taken over from outside (guest, child process) into one log line. */
const foreignTextLimit = 1024;

/** A log that writes JSON lines to `destination`. */
export function createLog(level: string, destination: DestinationStream): Log {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination);
}

/** Text from outside made safe for a log line or an error message: bounded, control characters escaped. */
export function foreignText(text: string, limit = foreignTextLimit): string {
  const cut = text.length > limit ? `${text.slice(0, limit)}…` : text;
  return cut.replace(
    // Control characters, line separators and the bidirectional marks that can make a line read differently from what it is.
    // oxlint-disable-next-line no-control-regex -- they are what is looked for
    /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (character) =>
      character === "\n" ? "\\n" : `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
