import { expect, test } from "vitest";
import { foreignText } from "../../../src/base/log.ts";

const table = [
  { name: "plain text", text: 'a "b" %s é 漢', want: 'a "b" %s é 漢' },
  { name: "newlines", text: 'x\n{"level":50}\r', want: String.raw`x\n{"level":50}\u000d` },
  { name: "terminal sequences", text: "\u001b[2J\u009b1m\u007f", want: String.raw`\u001b[2J\u009b1m\u007f` },
  { name: "NUL", text: "a\0b", want: String.raw`a\u0000b` },
  {
    name: "overrides of the writing direction",
    text: "\u202egpj\u2066\u061c",
    want: String.raw`\u202egpj\u2066\u061c`,
  },
  { name: "line separators", text: "a\u2028b\u2029c", want: String.raw`a\u2028b\u2029c` },
];

test.each(table)("foreignText() of $name", ({ text, want }) => {
  expect(foreignText(text)).toBe(want);
});

test("foreignText() bounds what it takes", () => {
  expect(foreignText("x".repeat(1024))).toBe("x".repeat(1024));
  expect(foreignText("x".repeat(1_000_000))).toBe(`${"x".repeat(1024)}…`);
  expect(foreignText("abcdef", 3)).toBe("abc…");
});
