import { readRegularFile } from "../base/files.ts";
import type { Phase } from "../sandbox/timeline.ts";
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

/**
 * A table of phases: ours, and below `shim` and `create` those of the daemon, which was started during `shim`. `start` is
 * the time since our own start.
 */
export function formatTimeline(own: readonly Phase[], daemon: readonly Phase[]): string {
  const daemonStartMs = own.find((phase) => phase.name === "shim")?.startMs ?? 0;
  const rows = [
    ...own.map((phase) => ({ ...phase, label: phase.name })),
    ...daemon.map((phase) => ({
      ...phase,
      startMs: phase.startMs + daemonStartMs,
      label: `  ${phase.name}`,
    })),
  ].sort((left, right) => left.startMs - right.startMs);
  const width = Math.max(10, ...rows.map((row) => row.label.length));
  const line = (label: string, start: string, took: string) =>
    `${label.padEnd(width)} ${start.padStart(9)} ${took.padStart(9)}\n`;
  return [
    line("phase", "start ms", "ms"),
    ...rows.map((row) => line(row.label, row.startMs.toFixed(1), row.durationMs.toFixed(1))),
  ].join("");
}
