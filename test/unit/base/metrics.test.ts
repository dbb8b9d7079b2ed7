import { expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import { Counter, counter, Gauge, gauge, Histogram, histogram, timed } from "../../../src/base/metrics.ts";

test("a counter without labels begins at 0, one with labels has no values", () => {
  const plain = new Counter(counter("a_total", ""));
  const labelled = new Counter(counter("b_total", "", ["kind"]));

  expect(plain.family().samples).toEqual([{ name: "a_total", labels: {}, value: 0 }]);
  expect(labelled.family().samples).toEqual([]);
});

test("a counter adds up per combination of labels", () => {
  const metric = new Counter(counter("a_total", "", ["x", "y"]));

  metric.add({ x: "1", y: "2" });
  metric.add({ y: "2", x: "1" }, 4);
  metric.add({ x: "2", y: "1" });

  expect(metric.family().samples).toEqual([
    { name: "a_total", labels: { x: "1", y: "2" }, value: 5 },
    { name: "a_total", labels: { x: "2", y: "1" }, value: 1 },
  ]);
});

test("a gauge keeps the last value and has none before", () => {
  const metric = new Gauge(gauge("a", ""));
  expect(metric.family().samples).toEqual([]);

  metric.set({}, 3);
  metric.set({}, 2);

  expect(metric.family().samples).toEqual([{ name: "a", labels: {}, value: 2 }]);
});

test("a histogram's buckets are cumulative and hold their upper bounds", () => {
  const metric = new Histogram(histogram("a_seconds", "", [1, 2]));

  for (const value of [0.5, 1, 1.5, 9]) metric.observe({}, value);

  expect(metric.family().samples).toEqual([
    { name: "a_seconds_bucket", labels: { le: 1 }, value: 2 },
    { name: "a_seconds_bucket", labels: { le: 2 }, value: 3 },
    { name: "a_seconds_bucket", labels: { le: "+Inf" }, value: 4 },
    { name: "a_seconds_sum", labels: {}, value: 12 },
    { name: "a_seconds_count", labels: {}, value: 4 },
  ]);
});

test("what comes after 128 combinations of labels is counted as other", () => {
  const metric = new Counter(counter("a_total", "", ["id"]));

  for (let id = 0; id < 1000; id++) metric.add({ id: String(id) });

  const { samples } = metric.family();
  expect(samples).toHaveLength(129);
  expect(samples.at(-1)).toEqual({ name: "a_total", labels: { id: "other" }, value: 872 });
});

test("timed() passes results and failures on and reports the kind of the failure", async () => {
  const reports: (string | undefined)[] = [];
  const report = (seconds: number, error: string | undefined) => {
    expect(seconds).toBeGreaterThanOrEqual(0);
    reports.push(error);
  };

  await expect(timed(() => Promise.resolve(5), report)).resolves.toBe(5);
  const failure = new RuntimeError("not_found", "x");
  await expect(timed(() => Promise.reject(failure), report)).rejects.toBe(failure);
  await expect(timed(() => Promise.reject(new TypeError("bug")), report)).rejects.toThrow("bug");

  expect(reports).toEqual([undefined, "not_found", "internal"]);
});
