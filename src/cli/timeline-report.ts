import { readRegularFile } from "../base/files.ts";
import { describe } from "../base/errors.ts";
import { writeFile } from "node:fs/promises";
import type { Phase } from "../sandbox/timeline.ts";
import { daemonTracks, formatTrace } from "../sandbox/trace.ts";
import { parseObject, property } from "../base/json.ts";

const maxTimelineBytes = 256 * 1024;

/** The phases that the daemon has written down; none when it has not. Times are relative to its own start. */
export async function readDaemonPhases(path: string): Promise<Phase[]> {
  const text = await readRegularFile(path, maxTimelineBytes).then(
    (content) => content.toString("utf8"),
    () => "[]",
  );
  // Wrapped, because the document is a list.
  const list = property(parseObject(`{"phases":${text}}`), "phases");
  return Array.isArray(list) ? list.filter(isPhase) : [];
}

function isPhase(value: unknown): value is Phase {
  return (
    typeof property(value, "name") === "string" &&
    Number.isFinite(property(value, "startMs")) &&
    Number.isFinite(property(value, "durationMs"))
  );
}

/** Prints the timeline on stderr and writes the trace, as far as they are asked for. Since the start of this process. */
export async function reportTimeline(
  own: readonly Phase[],
  daemon: readonly Phase[],
  options: { readonly timeline: boolean; readonly tracePath?: string },
): Promise<void> {
  if (options.timeline) process.stderr.write(formatTimeline(own, daemon, performance.now()));
  if (options.tracePath !== undefined) {
    const tracks = [{ name: "caisson", phases: own }, ...daemonTracks(onOurClock(own, daemon))];
    await writeFile(options.tracePath, formatTrace(tracks)).catch((error: unknown) => {
      // The container has run: its exit code is what counts.
      process.stderr.write(`caisson: Cannot write the trace: ${describe(error)}\n`);
    });
  }
}

/** The daemon was started during `shim`. */
function onOurClock(own: readonly Phase[], daemon: readonly Phase[]): Phase[] {
  const daemonStartMs = own.find((phase) => phase.name === "shim")?.startMs ?? 0;
  return daemon.map((phase) => ({ ...phase, startMs: phase.startMs + daemonStartMs }));
}

/**
 * A table of phases: ours, and below `shim` and `create` those of the daemon. `start` is the time since our own start. With
 * `totalMs`, the time until now, it ends with what is in none of our phases, and the whole.
 */
export function formatTimeline(own: readonly Phase[], daemon: readonly Phase[], totalMs?: number): string {
  const rows = [
    ...own.map((phase) => ({ ...phase, label: phase.name })),
    ...onOurClock(own, daemon).map((phase) => ({ ...phase, label: `  ${phase.name}` })),
  ].sort((left, right) => left.startMs - right.startMs);
  const sums = totalMs === undefined ? [] : sumsOf(own, totalMs);
  const width = Math.max(...[...rows, ...sums].map(({ label }) => label.length), 10);
  const line = (label: string, start: string, took: string) =>
    `${label.padEnd(width)} ${start.padStart(9)} ${took.padStart(9)}\n`;
  return [
    line("phase", "start ms", "ms"),
    ...rows.map((row) => line(row.label, row.startMs.toFixed(1), row.durationMs.toFixed(1))),
    ...sums.map((sum) => line(sum.label, "", sum.durationMs.toFixed(1))),
  ].join("");
}

function sumsOf(own: readonly Phase[], totalMs: number) {
  const known = own.reduce((sum, { durationMs }) => sum + durationMs, 0);
  return [
    { label: "unaccounted", durationMs: Math.max(0, totalMs - known) },
    { label: "total", durationMs: totalMs },
  ];
}
