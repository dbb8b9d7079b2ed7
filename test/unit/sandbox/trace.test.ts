import { expect, test } from "vitest";
import { daemonTracks, formatTrace } from "../../../src/sandbox/trace.ts";

test("a trace has a process for each track, and a lane of its own for what overlaps", () => {
  const daemon = [
    { name: "network", startMs: 10, durationMs: 5 },
    { name: "mounts", startMs: 10, durationMs: 8.5 },
    { name: "VMM", startMs: 15, durationMs: 20 },
    { name: "guest: agent", startMs: 30, durationMs: 600 },
  ];

  const trace: unknown = JSON.parse(
    formatTrace([
      { name: "caisson", phases: [{ name: "shim", startMs: 1, durationMs: 2 }] },
      ...daemonTracks(daemon),
    ]),
  );

  const title = (pid: number, name: string) => ({
    ph: "M",
    name: "process_name",
    pid,
    tid: 0,
    args: { name },
  });
  const event = (pid: number, tid: number, name: string, ts: number, dur: number) => ({
    ph: "X",
    cat: "start",
    name,
    pid,
    tid,
    ts,
    dur,
  });
  expect(trace).toEqual({
    displayTimeUnit: "ms",
    traceEvents: [
      title(1, "caisson"),
      event(1, 1, "shim", 1_000, 2_000),
      title(2, "daemon"),
      event(2, 1, "mounts", 10_000, 8_500),
      event(2, 2, "network", 10_000, 5_000),
      event(2, 2, "VMM", 15_000, 20_000),
      title(3, "guest"),
      event(3, 1, "guest: agent", 30_000, 600_000),
    ],
  });
});
