import { expect, test } from "vitest";
import { type Goal, makeRow } from "../../bench/rows.ts";

test("makeRow: median against the floor's median, rounded to thousandths, samples in their order", () => {
  const row = makeRow("start", "run", "ms", [300.00049, 100, 200], {
    floor: [90, 110],
    goal: { of: "ratio", is: "at most", value: 1.25 },
  });

  expect(row).toEqual({
    group: "start",
    name: "run",
    unit: "ms",
    n: 3,
    min: 100,
    median: 200,
    max: 300,
    spread: 0.5,
    floor: 100,
    ratio: 2,
    goal: { of: "ratio", is: "at most", value: 1.25 },
    met: false,
    samples: [300, 100, 200],
  });
});

test("makeRow: without floor and goal these are null", () => {
  expect(makeRow("start", "run", "ms", [1])).toMatchObject({
    floor: null,
    ratio: null,
    goal: null,
    met: null,
  });
});

test.for<{ goal: Goal; median: number; met: boolean }>([
  { goal: { of: "median", is: "at most", value: 10 }, median: 10, met: true },
  { goal: { of: "median", is: "at most", value: 10 }, median: 10.1, met: false },
  { goal: { of: "ratio", is: "at least", value: 0.8 }, median: 80, met: true },
  { goal: { of: "ratio", is: "at least", value: 0.8 }, median: 79, met: false },
])("makeRow: $goal.of of $median $goal.is $goal.value is met: $met", ({ goal, median, met }) => {
  expect(makeRow("group", "name", "MiB/s", [median], { floor: [100], goal }).met).toBe(met);
});

test.for<{ name: string; floor: number[] | undefined }>([
  { name: "no floor", floor: undefined },
  { name: "a floor of 0", floor: [0] },
])("makeRow: a goal of the ratio is not met with $name", ({ floor }) => {
  const goal: Goal = { of: "ratio", is: "at most", value: 1 };

  expect(makeRow("group", "name", "ms", [0], { goal, ...(floor === undefined ? {} : { floor }) }).met).toBe(
    false,
  );
});
