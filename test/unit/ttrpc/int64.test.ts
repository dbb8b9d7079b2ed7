import { expect, test } from "vitest";
import { int64, toBigInt, uint64 } from "../../../src/gen/int64.ts";
import { google, ttrpc } from "../../../src/gen/ttrpc.js";

test.for([0n, 1n, -1n, 5_000_000_000n, -5_000_000_000n, 2n ** 63n - 1n, -(2n ** 63n)])(
  "int64() and toBigInt() keep %s through the wire",
  (value) => {
    const bytes = ttrpc.Request.encode({ timeoutNano: int64(value) }).finish();

    expect(toBigInt(ttrpc.Request.decode(bytes).timeoutNano)).toBe(value);
  },
);

test.for([0n, 2n ** 32n, 2n ** 64n - 1n])("uint64() keeps %s", (value) => {
  expect(toBigInt(uint64(value))).toBe(value);
});

test("toBigInt() takes an absent field as 0", () => {
  expect(toBigInt(ttrpc.Request.decode(new Uint8Array()).timeoutNano)).toBe(0n);
  expect(google.rpc.Status.decode(new Uint8Array()).code).toBe(0);
});
