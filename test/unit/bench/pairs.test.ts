import { expect, test } from "vitest";
import { formatPairs, pairRows } from "../../bench/pairs.ts";
import { makeRow } from "../../bench/rows.ts";

const run = (base: number, head: number) => ({
  base: [makeRow("start", "run", "ms", [base]), makeRow("start", "old", "ms", [1])],
  head: [makeRow("start", "new", "ms", [1]), makeRow("start", "run", "ms", [head])],
});

test("pairRows: the median of the pairs' ratios, of rows that both revisions have", () => {
  // The machine is twice as slow in the third pair, for both.
  const rows = pairRows([run(100, 80), run(100, 90), run(200, 160)]);
  expect(rows).toHaveLength(1);
  expect(rows[0]).toMatchObject({ name: "run", base: { median: 100 }, head: { median: 90 } });
  expect(rows[0]?.ratio).toMatchObject({ n: 3, min: 0.8, median: 0.8, max: 0.9 });
});

test("pairRows: what a run has not measured is left out", () => {
  expect(pairRows([run(100, 80), { base: [], head: [] }])).toEqual([]);
  expect(pairRows([run(100, 0)])).toEqual([]);
});

test("formatPairs: group, medians, ratio with its ends", () => {
  const text = formatPairs(pairRows([run(100, 80), run(100, 90)]));
  expect(text).toMatch(/start \(ms\)/);
  expect(text).toMatch(/run +2 +100 +85\.0 +0\.850 +0\.800 +0\.900/);
});
