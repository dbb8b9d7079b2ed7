import { foreignText } from "../base/log.ts";

const linesShown = 8;
/** From its first line over the registers into the call trace. */
const oopsLinesShown = 30;
const lineLimit = 200;
/** How the kernel begins to tell that something of its own went wrong (arch/x86/kernel/dumpstack.c, kernel/panic.c). */
const oopsStart = /\bBUG: |\[#\d+\]|Kernel panic/;

/** What a guest's console shows that has ended: where its kernel went wrong, else its last lines. */
export function describeConsole(text: string): string {
  const lines = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "");
  if (lines.length === 0) return "the guest's console is empty";
  const start = lines.findIndex((line) => oopsStart.test(line));
  const shown = start < 0 ? lines.slice(-linesShown) : lines.slice(start, start + oopsLinesShown);
  const words = shown.map((line) => foreignText(line, lineLimit)).join(" | ");
  return start < 0
    ? `the guest's console ends with: ${words}`
    : `the guest's kernel went wrong; its console: ${words}`;
}
