import protobuf from "protobufjs/minimal.js";
import type { ttrpc } from "./ttrpc.js";

/** A 64-bit integer as the generated classes hold it: always a `Long`, never a number. */
export type Int64 = NonNullable<ttrpc.Request.$Properties["timeoutNano"]>;

/** For fields of type int64: truncates to 64 bits. */
export function int64(value: bigint): Int64 {
  return make(value, false);
}

/** For fields of type uint64: truncates to 64 bits. */
export function uint64(value: bigint): Int64 {
  return make(value, true);
}

/** The value of a 64-bit field; 0 when absent. */
export function toBigInt(value: Int64 | null | undefined): bigint {
  if (value === null || value === undefined) return 0n;
  const bits = (BigInt(value.high) << 32n) | BigInt(value.low >>> 0);
  return value.unsigned ? BigInt.asUintN(64, bits) : BigInt.asIntN(64, bits);
}

function make(value: bigint, unsigned: boolean): Int64 {
  const low = Number(BigInt.asIntN(32, value));
  const high = Number(BigInt.asIntN(32, value >> 32n));
  return new protobuf.util.Long(low, high, unsigned) as Int64;
}
