import { expect, test } from "vitest";
import { medianOf, summarize } from "../../bench/statistics.ts";

test.for([
  { name: "one", samples: [5], want: { n: 1, min: 5, median: 5, max: 5, spread: 0 } },
  { name: "two", samples: [4, 2], want: { n: 2, min: 2, median: 3, max: 4, spread: 1 / 3 } },
  { name: "odd", samples: [30, 10, 20], want: { n: 3, min: 10, median: 20, max: 30, spread: 0.5 } },
  { name: "even", samples: [4, 1, 3, 2], want: { n: 4, min: 1, median: 2.5, max: 4, spread: 0.6 } },
  { name: "below 0", samples: [-10, -20, -30], want: { n: 3, min: -30, median: -20, max: -10, spread: 0.5 } },
  { name: "0 in the middle", samples: [-1, 0, 1], want: { n: 3, min: -1, median: 0, max: 1, spread: 0 } },
])("summarize: $name", ({ samples, want }) => {
  expect(summarize(samples)).toEqual(want);
});

test("summarize sorts numbers as numbers, and leaves the samples as they are", () => {
  const samples = [100, 9, 20];

  expect(medianOf(samples)).toBe(20);
  expect(samples).toEqual([100, 9, 20]);
});

test.for([[], [1, Number.NaN], [Number.POSITIVE_INFINITY]])("summarize refuses %j", (samples) => {
  expect(() => summarize(samples)).toThrow(RangeError);
});
