import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { annotationKeys, fields } from "../../../src/config/fields.ts";

const page = readFileSync(join(import.meta.dirname, "../../../docs/configuration.md"), "utf8");
/** First cells of the rows that name one thing in code style. */
const rows = [...page.matchAll(/^\| `([a-z][\w.]*)` \|/gm)].map((match) => match[1] ?? "");

test("docs/configuration.md has a row for every setting", () => {
  expect([...fields.keys()].filter((key) => !rows.includes(key))).toEqual([]);
});

test("docs/configuration.md has a row for every annotation, with the setting that it sets, and for no other", () => {
  const described = rows.filter((name) => name.startsWith("io.caisson."));

  expect(described).toEqual([...annotationKeys.keys()]);
  for (const [name, key] of annotationKeys) expect(page).toContain(`| \`${name}\` | \`${key}\` |`);
});
