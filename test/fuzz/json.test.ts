import fc from "fast-check";
import { expect, test } from "vitest";
import { RuntimeError } from "../../src/base/errors.ts";
import { isRawNumber, parseStrictJson } from "../../src/base/strict-json.ts";
import { bytes, nearly } from "./bytes.ts";

/** A document as its author wrote it: what `JSON.parse` forgets (keys that stand twice, digits) is still there. */
type Tree =
  | { readonly tag: "atom"; readonly text: string }
  | { readonly tag: "list"; readonly items: readonly Tree[] }
  | { readonly tag: "object"; readonly entries: readonly (readonly [key: string, value: Tree])[] };

/** One key in another spelling. */
function escaped(key: string): string {
  return `"${key
    .split("")
    .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .join("")}"`;
}

function write(tree: Tree): string {
  switch (tree.tag) {
    case "atom":
      return tree.text;
    case "list":
      return `[${tree.items.map(write).join(" ,")}]`;
    case "object":
      return `{${tree.entries
        .map(
          ([key, value], index) =>
            `${index % 2 === 0 ? JSON.stringify(key) : escaped(key)}:\t${write(value)}`,
        )
        .join("\n,")}}`;
  }
}

function hasDuplicate(tree: Tree): boolean {
  if (tree.tag === "atom") return false;
  if (tree.tag === "list") return tree.items.some(hasDuplicate);
  const keys = tree.entries.map(([key]) => key);
  return new Set(keys).size < keys.length || tree.entries.some(([, value]) => hasDuplicate(value));
}

const integer = fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }).map(String);
const number = fc.oneof(
  integer,
  fc.constantFrom(
    "-0",
    "0",
    "1e2",
    "18446744073709551615",
    "9007199254740993",
    "1.5",
    "-1E-2",
    "1e400",
    "-1e999",
  ),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => JSON.stringify(value)),
);
const key = fc.oneof(
  fc.constantFrom("a", "b", "__proto__", "constructor", "", "rawJSON", "toJSON"),
  fc.string(),
);
const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc
      .oneof(
        number,
        fc.constantFrom("null", "true", "false"),
        fc.string().map((text) => JSON.stringify(text)),
      )
      .map((text): Tree => ({ tag: "atom", text })),
    fc.array(tie("tree"), { maxLength: 4 }).map((items): Tree => ({ tag: "list", items })),
    fc
      .array(fc.tuple(key, tie("tree")), { maxLength: 4 })
      .map((entries): Tree => ({ tag: "object", entries })),
  ),
}));

const parse = (text: string) => parseStrictJson(Buffer.from(text), "it");

/** What a reader that knows no large integers makes of it; a zero without its sign, which no integer has. */
const plain = (text: string): unknown =>
  JSON.parse(text, (_key, value: unknown) => (value === 0 ? 0 : value));

/** The numbers of a document as they are written, in order, and how a printed one would look. */
function numbersOf(text: string): string[] {
  return text.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""').match(/-?\d[\d.eE+-]*/g) ?? [];
}

test("what was written is what is read, or it is refused for a reason", () => {
  fc.assert(
    fc.property(tree, (document) => {
      const text = write(document);
      const isTooLarge = numbersOf(text).some((digits) => !Number.isFinite(Number(digits)));

      if (hasDuplicate(document) || isTooLarge) {
        expect(() => parse(text)).toThrow(
          hasDuplicate(document) && !isTooLarge ? /stands twice/ : /Cannot read it/,
        );
        return;
      }
      const printed = JSON.stringify(parse(text));
      // The same value for a reader that knows no large integers …
      expect(plain(printed)).toEqual(plain(text));
      // … and the same digits for one that does. (`JSON.parse` puts keys that are numbers first.)
      const integers = (of: string) =>
        numbersOf(of)
          .filter((digits) => /^-?\d+$/.test(digits))
          .map(BigInt)
          .toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0));
      if (numbersOf(text).every((digits) => /^-?\d+$/.test(digits)))
        expect(integers(printed)).toEqual(integers(text));
    }),
  );
});

test("any text: strict JSON is JSON, and what is refused is refused as invalid_argument", () => {
  const text = fc.oneof(
    fc.string(),
    tree.map(write),
    nearly(tree.map((document) => Buffer.from(write(document)))),
    bytes(200),
  );
  fc.assert(
    fc.property(text, (document) => {
      const data = Buffer.from(document as string);
      let value: unknown;
      try {
        value = parseStrictJson(data, "it");
      } catch (error) {
        expect(error).toBeInstanceOf(RuntimeError);
        expect(error).toMatchObject({ code: "invalid_argument" });
        return;
      }
      expect(plain(JSON.stringify(value))).toEqual(plain(data.toString()));
    }),
  );
});

test("no document changes what plain objects have", () => {
  fc.assert(
    fc.property(tree, (document) => {
      try {
        const value = parse(write(document));
        if (isRawNumber(value) || typeof value !== "object" || value === null || Array.isArray(value)) return;
        // As the readers of a spec do.
        const { ...copy } = value as object;
        expect(Object.getPrototypeOf(copy)).toBe(Object.prototype);
      } catch (error) {
        expect(error).toBeInstanceOf(RuntimeError);
      }
      expect(Object.keys(Object.prototype)).toEqual([]);
    }),
  );
});
