import { expect, test } from "vitest";
import { makeRow } from "../../bench/rows.ts";
import { formatNumber, formatTable } from "../../bench/table.ts";

test("formatTable: a title for each group, columns aligned over all of them", () => {
  const rows = [
    makeRow("start", "floor", "ms", [1000, 1200]),
    makeRow("start", "run", "ms", [1500], {
      floor: [1000, 1200],
      goal: { of: "ratio", is: "at most", value: 1.25 },
    }),
    makeRow("memory", "agent", "MiB", [2.345], { goal: { of: "median", is: "at most", value: 5 } }),
  ];

  expect(formatTable(rows)).toBe(
    [
      "start (ms)    n   min  median   max  spread  floor  × floor      goal  met",
      "  floor       2  1000    1100  1200     9 %",
      "  run         1  1500    1500  1500     0 %   1100     1.36  ≤ 1.25 ×   no",
      "",
      "memory (MiB)  n   min  median   max  spread  floor  × floor      goal  met",
      "  agent       1  2.35    2.35  2.35     0 %                       ≤ 5  yes",
      "",
    ].join("\n"),
  );
});

test("formatTable: nothing of nothing", () => {
  expect(formatTable([])).toBe("");
});

test.for([
  [0, "0"],
  [0.126, "0.13"],
  [9.994, "9.99"],
  [12.34, "12.3"],
  [123.4, "123"],
  [-45.67, "-45.7"],
] as const)("formatNumber: %d is %s", ([value, want]) => {
  expect(formatNumber(value)).toBe(want);
});
