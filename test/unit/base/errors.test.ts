import { expect, test } from "vitest";
import { asError, codeOf, describe, errnoOf, RuntimeError } from "../../../src/base/errors.ts";

function chain(...messages: string[]): Error {
  const [message = "", ...rest] = messages;
  return rest.length === 0 ? new Error(message) : new Error(message, { cause: chain(...rest) });
}

const circular: { self?: unknown } = {};
circular.self = circular;

const table: { name: string; error: unknown; want: string }[] = [
  { name: "one error", error: new Error("alone"), want: "alone" },
  { name: "causes, outermost first", error: chain("outer", "middle", "inner"), want: "outer: middle: inner" },
  {
    name: "a cause that is said already",
    error: chain('Cannot do "x": no', "no", "why"),
    want: 'Cannot do "x": no: why',
  },
  { name: "an empty message", error: chain("outer", "", "inner"), want: "outer: inner" },
  { name: "a string", error: "thrown", want: "thrown" },
  { name: "a string as the cause", error: new Error("outer", { cause: "inner" }), want: "outer: inner" },
  { name: "an object", error: { code: 5 }, want: '{"code":5}' },
  { name: "undefined", error: undefined, want: "" },
  { name: "null", error: null, want: "" },
  { name: "a symbol", error: Symbol("s"), want: "Symbol(s)" },
  { name: "a bigint", error: 7n, want: "7" },
  { name: "an object that holds itself", error: circular, want: "[object Object]" },
  {
    name: "several errors",
    error: new AggregateError([chain("a", "b"), "c"], "Cleanup failed"),
    want: "Cleanup failed: a: b; c",
  },
];

test.each(table)("describe() of $name", ({ error, want }) => {
  expect(describe(error)).toBe(want);
});

test("describe() ends on a chain that is a circle", () => {
  const error = new Error("round");
  error.cause = error;

  expect(describe(error)).toBe("round");
});

test("codeOf() is internal for whatever is not ours", () => {
  expect(codeOf(new RuntimeError("not_found", "x"))).toBe("not_found");
  for (const value of [new Error("x"), { code: "not_found" }, undefined, "not_found"]) {
    expect(codeOf(value)).toBe("internal");
  }
});

test("errnoOf() and asError() take anything", () => {
  expect(errnoOf(Object.assign(new Error("x"), { code: "ENOENT" }))).toBe("ENOENT");
  expect(errnoOf(Object.assign(new Error("x"), { code: 5 }))).toBeUndefined();
  expect(errnoOf("ENOENT")).toBeUndefined();
  expect(asError("text")).toMatchObject({ message: "text" });
  expect(asError(Symbol("s"))).toBeInstanceOf(Error);
});
