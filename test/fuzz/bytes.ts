import fc from "fast-check";

/** Bytes of any kind, up to `maxLength`. */
export function bytes(maxLength: number): fc.Arbitrary<Buffer> {
  return fc.uint8Array({ maxLength, size: "max" }).map((array) => Buffer.from(array));
}

/** `data` cut at each of `cuts` (any numbers). */
export function cutUp(data: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map((cut) => cut % (data.length + 1)))].sort((a, b) => a - b);
  return [0, ...places].map((start, index) => data.subarray(start, places[index] ?? data.length));
}

export const cuts = fc.array(fc.nat(), { maxLength: 20 });

/** Bytes that are nearly the given ones: some changed, cut, put in or doubled. */
export function nearly(good: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Buffer> {
  const change = fc.record({
    kind: fc.constantFrom("set", "insert", "cut", "double"),
    place: fc.nat(),
    value: fc.nat({ max: 255 }),
  });
  return fc.tuple(good, fc.array(change, { maxLength: 4 })).map(([data, changes]) => {
    let result = Buffer.from(data);
    for (const { kind, place, value } of changes) {
      const at = place % (result.length + 1);
      const [before, after] = [result.subarray(0, at), result.subarray(at)];
      if (kind === "set") result = Buffer.concat([before, Buffer.of(value), after.subarray(1)]);
      if (kind === "insert") result = Buffer.concat([before, Buffer.of(value), after]);
      if (kind === "cut") result = Buffer.concat([before, after.subarray(1 + (value % 8))]);
      if (kind === "double") result = Buffer.concat([result, after]).subarray(0, 1 << 20);
    }
    return result;
  });
}
