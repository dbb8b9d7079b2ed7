import { expect, test } from "vitest";
import { consoleSizeOf, loadConsoleSize } from "../../../src/sandbox/console-size.ts";

test.each([
  { name: "a size", value: { width: 80, height: 24 }, want: { columns: 80, rows: 24 } },
  { name: "one side", value: { height: 24 }, want: { columns: 0, rows: 24 } },
  { name: "out of range", value: { width: 65_536, height: -1 }, want: { columns: 0, rows: 0 } },
  { name: "fractions and text", value: { width: 1.5, height: "24" }, want: { columns: 0, rows: 0 } },
  { name: "null", value: null, want: { columns: 0, rows: 0 } },
  { name: "nothing", value: undefined, want: { columns: 0, rows: 0 } },
  { name: "text", value: "80x24", want: { columns: 0, rows: 0 } },
])("consoleSizeOf() of $name", ({ value, want }) => {
  expect(consoleSizeOf(value)).toEqual(want);
  expect(loadConsoleSize(Buffer.from(JSON.stringify({ consoleSize: value })))).toEqual(want);
});

test("loadConsoleSize() takes any JSON and refuses what is none", () => {
  for (const text of ["null", "[]", "5", '"x"', "18446744073709551615"]) {
    expect(loadConsoleSize(Buffer.from(text))).toEqual({ columns: 0, rows: 0 });
  }
  expect(() => loadConsoleSize(Buffer.from("{"))).toThrow(
    expect.objectContaining({ code: "invalid_argument" }),
  );
});
