import { expect, test } from "vitest";
import type { ProcessState } from "../../../src/sandbox/model.ts";
import { transition } from "../../../src/sandbox/process-state.ts";

const exit = { exitCode: 0, exitedAt: new Date(0) };
const states: Record<ProcessState["tag"], ProcessState> = {
  created: { tag: "created" },
  starting: { tag: "starting" },
  running: { tag: "running" },
  pausing: { tag: "pausing" },
  paused: { tag: "paused" },
  stopped: { tag: "stopped", exit },
  deleted: { tag: "deleted", exit },
};

/** Every pair that is not here must be refused. */
const allowed = [
  "created starting",
  "created stopped",
  "created deleted",
  "starting running",
  "starting created",
  "starting stopped",
  "running pausing",
  "running stopped",
  "pausing paused",
  "pausing running",
  "pausing stopped",
  "paused running",
  "paused stopped",
  "stopped deleted",
];

const pairs = Object.keys(states).flatMap((from) => Object.keys(states).map((to) => ({ from, to })));

test.each(pairs)("$from -> $to", ({ from, to }) => {
  const source = states[from as ProcessState["tag"]];
  const target = states[to as ProcessState["tag"]];

  if (allowed.includes(`${from} ${to}`)) expect(transition(source, target)).toBe(target);
  else expect(() => transition(source, target)).toThrow(`Cannot change a process from ${from} to ${to}`);
});
