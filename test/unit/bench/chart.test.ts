import { expect, test } from "vitest";
import { drawChart } from "../../bench/chart.ts";
import { makeRow } from "../../bench/rows.ts";

const goal = { of: "median", is: "at most", value: 100 } as const;
const draw = (samples: readonly number[], options = {}) =>
  drawChart([makeRow("start", "run <it>", "ms", samples, options)], ["machine: a & b"]);
const widthsOf = (svg: string) =>
  [...svg.matchAll(/<rect x="\d+" y="\d+" width="([\d.]+)"/g)].map(([, width]) => Number(width));

test("a bar is as long as its median, the longest thing fills the width", () => {
  const rows = [makeRow("start", "one", "ms", [50]), makeRow("start", "two", "ms", [100])];
  const [one = 0, two = 0] = widthsOf(drawChart(rows, []));
  expect(one / two).toBeCloseTo(0.5, 2);
});

test("names and footer are escaped", () => {
  expect(draw([1])).toContain("run &lt;it&gt;");
  expect(draw([1])).toContain("machine: a &amp; b");
});

test("goals that are met, missed and not set have colours of their own", () => {
  const colors = [draw([50], { goal }), draw([150], { goal }), draw([50])].map(
    (svg) => /<rect x=[^>]*fill="(#\w+)"/.exec(svg)?.[1],
  );
  expect(new Set(colors).size).toBe(3);
});

test("a row with a floor has its mark", () => {
  expect(draw([100], { floor: [50] })).toContain("stroke-dasharray");
  expect(draw([100])).not.toContain("stroke-dasharray");
});

test("long lines of the footer are broken between words", () => {
  const svg = drawChart([makeRow("start", "run", "ms", [1])], ["word ".repeat(60).trim()]);
  const lines = [...svg.matchAll(/>((?:word ?)+)</g)].map(([, line]) => line);
  expect(lines.length).toBeGreaterThan(1);
  expect(lines.join(" ").split(" ")).toHaveLength(60);
});

test("no rows make no chart", () => {
  expect(() => drawChart([], [])).toThrow("no rows");
});
