import { expect, test } from "vitest";
import { isRawNumber, parseStrictJson } from "../../../src/base/strict-json.ts";

const parse = (text: string | Uint8Array) => parseStrictJson(Buffer.from(text), '"config.json"');
const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);

const refused: { name: string; text: string | Uint8Array; words: string }[] = [
  { name: "nothing", text: "", words: "not valid JSON" },
  { name: "truncated", text: '{"a":', words: "not valid JSON" },
  { name: "a comment", text: "{} // x", words: "not valid JSON" },
  { name: "a raw control character", text: '"a\u0001"', words: "not valid JSON" },
  { name: "NaN", text: "NaN", words: "not valid JSON" },
  { name: "a leading zero", text: "01", words: "not valid JSON" },
  { name: "a byte order mark", text: "\ufeff{}", words: "byte order mark" },
  { name: "UTF-16", text: Buffer.from("{}", "utf16le"), words: "not valid JSON" },
  { name: "UTF-16 with its mark", text: Buffer.from("\ufeff{}", "utf16le"), words: "not valid UTF-8" },
  { name: "bytes that are not UTF-8", text: Buffer.from([0x22, 0xff, 0x22]), words: "not valid UTF-8" },
  { name: "an overlong encoding", text: Buffer.from([0x22, 0xc0, 0xaf, 0x22]), words: "not valid UTF-8" },
  {
    name: "an encoded surrogate",
    text: Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]),
    words: "not valid UTF-8",
  },
  {
    name: "a duplicate key",
    text: '{"readonly":true,"readonly":false}',
    words: 'key "readonly" stands twice',
  },
  {
    name: "a duplicate in another spelling",
    text: String.raw`{"a":1,"\u0061":2}`,
    words: 'key "a" stands twice',
  },
  {
    name: "a duplicate deep inside",
    text: '{"x":[{"y":{"a":[],"b":{"a":1},"a":{}}}]}',
    words: 'key "a" stands twice',
  },
  { name: "a duplicate __proto__", text: '{"__proto__":1,"__proto__":2}', words: "stands twice" },
  { name: "a duplicate behind a string with brackets", text: '{"a":"}{[\\"","a":1}', words: "stands twice" },
  { name: "a number that none can hold", text: '{"limit":1e400}', words: "the number 1e400 is too large" },
  { name: "65 levels", text: nested(65), words: "deeper than 64" },
  { name: "10^5 levels", text: nested(100_000), words: "deeper than 64" },
  { name: "10^5 levels that do not end", text: "[".repeat(100_000), words: "not valid JSON" },
];

test.each(refused)("$name is refused", ({ text, words }) => {
  expect(() => parse(text)).toThrow(
    expect.objectContaining({ code: "invalid_argument", message: expect.stringContaining(words) }),
  );
  expect(() => parse(text)).toThrow('Cannot read "config.json": ');
});

test("a huge string without an end is refused in the time that it takes to read it", () => {
  const startMs = performance.now();

  expect(() => parse(`"${String.raw`\"`.repeat(2_000_000)}`)).toThrow("not valid JSON");

  expect(performance.now() - startMs).toBeLessThan(2_000);
});

test("the name of a duplicate key is cut", () => {
  const key = "k".repeat(10_000);

  expect(() => parse(`{"${key}":1,"${key}":2}`)).toThrow(/^.{0,200}$/);
});

test("64 levels, long strings, and equal keys of different objects are accepted", () => {
  expect(parse(nested(64))).toBeInstanceOf(Array);
  expect(parse(JSON.stringify('\\"x'.repeat(1_000_000)))).toHaveLength(3_000_000);
  expect(parse('[{"a":{"a":1}},{"a":2,"b":"a:","c":["a","a"]}]')).toEqual([
    { a: { a: 1 } },
    { a: 2, b: "a:", c: ["a", "a"] },
  ]);
});

test.each([
  "18446744073709551615",
  "-9223372036854775808",
  "9223372036854771712",
  "9007199254740993",
  "123456789012345678901234567890",
])("%s is printed as it was read", (digits) => {
  const value = parse(`{"limit":${digits},"list":[${digits}]}`) as { limit: unknown };

  expect(isRawNumber(value.limit)).toBe(true);
  expect(JSON.stringify(value)).toBe(`{"limit":${digits},"list":[${digits}]}`);
});

test.each(["0", "-1", "9007199254740991", "1.5", "-0.25"])("%s stays a number", (digits) => {
  expect(parse(digits)).toBe(Number(digits));
});

test("__proto__ and constructor are plain keys that survive printing and change nothing", () => {
  const text = '{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}';
  const value = parse(text) as Record<string, unknown>;

  expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
  expect(value["polluted"]).toBeUndefined();
  expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  expect(JSON.stringify({ ...value })).toBe(text);
});
