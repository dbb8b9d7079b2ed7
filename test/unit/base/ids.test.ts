import { expect, test } from "vitest";
import { checkId } from "../../../src/base/ids.ts";

const good = [
  "a",
  "A",
  "0",
  "a.b",
  "a_b-c.d",
  "constructor",
  "hasOwnProperty",
  "toString",
  "x".repeat(76),
  "1e9",
];

test.each(good)("%j is an id", (id) => {
  expect(checkId("container id", id)).toBe(id);
});

const bad = [
  "",
  ".",
  "..",
  "../x",
  "a/b",
  "a\\b",
  "a\0b",
  "a\0",
  "x".repeat(77),
  "x".repeat(1_000_000),
  "-rf",
  "--help",
  "a-",
  "_a",
  "a..b",
  "a.-b",
  "a b",
  "a\nb",
  "a\n",
  "\u001b[2J",
  "ａ",
  "é",
  "\u202egpj",
  "%2e%2e",
  "__proto__",
  "a,b",
  "a:b",
  "*",
];

test.each(bad)("%j is no id", (id) => {
  expect(() => checkId("container id", id)).toThrow(
    expect.objectContaining({
      code: "invalid_argument",
      // Quoted, escaped and short, so that it can be logged.
      message: expect.stringMatching(/^Cannot use container id "\P{Cc}{0,700}$/u),
    }),
  );
});
