import { constants } from "node:os";
import { RuntimeError } from "../base/errors.ts";

// The C library keeps two of the kernel's real-time signals for itself (signal(7)).
const firstRealTimeSignal = 34;
const lastRealTimeSignal = 64;

const numbers: ReadonlyMap<string, number> = new Map(Object.entries(constants.signals));

/**
 * The number of a signal given as "SIGTERM", "term", "15" or "SIGRTMIN+3".
 *
 * @throws invalid_argument
 */
export function signalNumber(text: string): number {
  const name = text.toUpperCase().replace(/^(?!SIG)/, "SIG");
  const known = numbers.get(name);
  if (known !== undefined) return known;
  const realTime = /^SIGRT(?:MIN(?:\+(\d{1,2}))?|MAX(?:-(\d{1,2}))?)$/.exec(name);
  const number = /^\d{1,2}$/.test(text)
    ? Number(text)
    : realTime === null
      ? Number.NaN
      : name.startsWith("SIGRTMIN")
        ? firstRealTimeSignal + Number(realTime[1] ?? 0)
        : lastRealTimeSignal - Number(realTime[2] ?? 0);
  if (!(number >= 1 && number <= lastRealTimeSignal)) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot use signal ${JSON.stringify(text.slice(0, 40))}: there is no such signal`,
    );
  }
  return number;
}
