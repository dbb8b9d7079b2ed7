import type { Phase } from "./timeline.ts";

/** Phases of one process, on the clock that all tracks of a trace share. */
export interface Track {
  readonly name: string;
  readonly phases: readonly Phase[];
}

const guestPrefix = "guest: ";

/** The daemon's phases and those that the guest has said, as tracks. */
export function daemonTracks(phases: readonly Phase[]): Track[] {
  const isGuests = ({ name }: Phase) => name.startsWith(guestPrefix);
  return [
    { name: "daemon", phases: phases.filter((phase) => !isGuests(phase)) },
    { name: "guest", phases: phases.filter(isGuests) },
  ];
}

/** A document in the Trace Event Format (JSON object form), which Perfetto and Chrome's about:tracing read. */
export function formatTrace(tracks: readonly Track[]): string {
  const traceEvents = tracks.flatMap(({ name, phases }, index) => {
    const pid = index + 1;
    const lanes: number[] = [];
    const title = { ph: "M", name: "process_name", pid, tid: 0, args: { name } };
    return [title, ...phases.toSorted(byStart).map((phase) => toEvent(phase, pid, laneOf(lanes, phase)))];
  });
  return JSON.stringify({ displayTimeUnit: "ms", traceEvents });
}

/** The longer one of two that begin together comes first. */
function byStart(left: Phase, right: Phase): number {
  return left.startMs - right.startMs || right.durationMs - left.durationMs;
}

/** Phases that overlap are shown one below the other. `lanes` holds the end of each lane's last phase. */
function laneOf(lanes: number[], { startMs, durationMs }: Phase): number {
  const free = lanes.findIndex((endMs) => endMs <= startMs);
  const lane = free === -1 ? lanes.length : free;
  lanes[lane] = startMs + durationMs;
  return lane;
}

/** Times of the format are microseconds. */
function toEvent({ name, startMs, durationMs }: Phase, pid: number, lane: number): object {
  const ts = Math.round(startMs * 1000);
  return { ph: "X", cat: "start", name, pid, tid: lane + 1, ts, dur: Math.round(durationMs * 1000) };
}
