import { RuntimeError } from "./errors.ts";

const maxDepth = 64;

/** A JSON value whose integers beyond 2^53 are kept by their digits (`JSON.rawJSON`), so that printing it is lossless. */
export type Json =
  | null
  | boolean
  | number
  | string
  | RawNumber
  | readonly Json[]
  | { readonly [key: string]: Json };

/** An integer kept as it was written. */
export interface RawNumber {
  readonly rawJSON: string;
}

// In ECMAScript 2025 and in Node since 21; missing from TypeScript's es2023 library.
const lossless = JSON as unknown as {
  rawJSON(text: string): RawNumber;
  isRawJSON(value: unknown): value is RawNumber;
  parse(text: string, reviver: (key: string, value: unknown, context: { source?: string }) => unknown): Json;
};

/**
 * Parses JSON as one strict reader: duplicate keys, a byte order mark, invalid UTF-8, nesting beyond 64 and numbers
 * beyond what a number can be are refused, because two readers that disagree on them are how checks are bypassed.
 *
 * @throws invalid_argument  `what` names the document
 */
export function parseStrictJson(bytes: Uint8Array, what: string): Json {
  const refuse = (fact: string, cause?: unknown) =>
    new RuntimeError(
      "invalid_argument",
      `Cannot read ${what}: ${fact}`,
      cause === undefined ? {} : { cause },
    );
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw refuse("it is not valid UTF-8");
  }
  if (text.startsWith("\ufeff")) throw refuse("it starts with a byte order mark");
  try {
    // First, because `scan` relies on it: on a string without an end, for one, it would take hours.
    JSON.parse(text);
    const problem = scan(text);
    if (problem !== undefined) throw refuse(problem);
    return lossless.parse(text, (_key, value, { source = "" }) => {
      if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
      if (/^-?\d+$/.test(source)) return lossless.rawJSON(source);
      // It would be printed as null.
      if (!Number.isFinite(value)) throw refuse(`the number ${source.slice(0, 100)} is too large`);
      return value;
    });
  } catch (cause) {
    if (cause instanceof RuntimeError) throw cause;
    throw refuse("it is not valid JSON", cause);
  }
}

/** Whether a parsed value is an integer too large for a number. */
export function isRawNumber(value: unknown): value is RawNumber {
  return lossless.isRawJSON(value);
}

/**
 * Looks for what `JSON.parse` would let pass: duplicate keys and deep nesting. Assumes valid JSON.
 */
function scan(text: string): string | undefined {
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]:,]/gs;
  // One entry per open container: the keys of an object, or null for an array.
  const open: (Set<string> | null)[] = [];
  let lastString: string | undefined;
  for (const [lexeme] of text.matchAll(token)) {
    if (lexeme === "{" || lexeme === "[") {
      if (open.length >= maxDepth) return `it is nested deeper than ${maxDepth} levels`;
      open.push(lexeme === "{" ? new Set() : null);
    } else if (lexeme === "}" || lexeme === "]") {
      open.pop();
    } else if (lexeme === ":") {
      const keys = open.at(-1);
      const key = JSON.parse(lastString ?? '""') as string;
      if (keys?.has(key)) return `the key ${JSON.stringify(key.slice(0, 100))} stands twice in one object`;
      keys?.add(key);
    } else if (lexeme !== ",") {
      lastString = lexeme;
    }
  }
  return undefined;
}
