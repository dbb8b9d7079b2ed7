import { expect, test } from "vitest";
import { type Code, RuntimeError } from "../../../src/base/errors.ts";
import { fromStatus, toStatus } from "../../../src/ttrpc/status.ts";

// Numbers of google.rpc.Code, as containerd's error classes have them.
const rows: readonly [Code, number][] = [
  ["canceled", 1],
  ["invalid_argument", 3],
  ["deadline_exceeded", 4],
  ["not_found", 5],
  ["already_exists", 6],
  ["permission_denied", 7],
  ["resource_exhausted", 8],
  ["failed_precondition", 9],
  ["unimplemented", 12],
  ["internal", 13],
  ["unavailable", 14],
];

test.for(rows)("%s is %d on the wire, both ways", ([code, number]) => {
  expect(toStatus(new RuntimeError(code, "text"))).toEqual({ code: number, message: "text" });
  expect(fromStatus({ code: number, message: "text" })).toMatchObject({ code, message: "text" });
});

test("toStatus() takes any other error as internal and prints its causes", () => {
  const error = new TypeError("outer", { cause: new Error("inner") });

  expect(toStatus(error)).toEqual({ code: 13, message: "outer: inner" });
});

test("fromStatus() knows a kind for the numbers that it never sends", () => {
  expect([2, 10, 11, 15, 16, 99].map((code) => fromStatus({ code, message: "" }).code)).toEqual([
    "internal",
    "unavailable",
    "invalid_argument",
    "internal",
    "permission_denied",
    "internal",
  ]);
});
