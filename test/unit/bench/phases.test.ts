import { expect, test } from "vitest";
import { formatTimeline } from "../../../src/cli/timeline-report.ts";
import { collectPhases, parsePhases } from "../../bench/phases.ts";

test("parsePhases reads what `caisson run --timeline` prints, among other lines", () => {
  const own = [
    { name: "shim", startMs: 20, durationMs: 30.5 },
    { name: "create", startMs: 60, durationMs: 1000 },
  ];
  const daemon = [{ name: "guest: ready", startMs: 100, durationMs: 12.25 }];
  const stderr = `caisson: unpacking 12.5\n${formatTimeline(own, daemon)}bye 1 2\n`;

  expect(parsePhases(stderr)).toEqual([
    { name: "shim", isInner: false, startMs: 20, durationMs: 30.5 },
    { name: "create", isInner: false, startMs: 60, durationMs: 1000 },
    { name: "guest: ready", isInner: true, startMs: 120, durationMs: 12.3 },
  ]);
});

test("parsePhases finds nothing in other output", () => {
  expect(parsePhases("caisson: Cannot run\n")).toEqual([]);
});

test("collectPhases aligns runs, and adds what no phase of the command accounts for", () => {
  const phase = (name: string, durationMs: number, isInner = false) => ({
    name,
    isInner,
    startMs: 0,
    durationMs,
  });
  const runs = [
    { totalMs: 100, phases: [phase("create", 60), phase("VMM", 50, true), phase("run", 10)] },
    { totalMs: 120, phases: [phase("create", 70), phase("VMM", 55, true), phase("late", 5)] },
  ];

  expect(collectPhases(runs)).toEqual([
    { name: "create", isInner: false, samples: [60, 70] },
    { name: "VMM", isInner: true, samples: [50, 55] },
    { name: "run", isInner: false, samples: [10, 0] },
    { name: "late", isInner: false, samples: [0, 5] },
    { name: "unaccounted", isInner: false, samples: [30, 45] },
  ]);
});
