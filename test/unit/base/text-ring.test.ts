import { expect, test } from "vitest";
import { TextRing } from "../../../src/base/text-ring.ts";

test.each([1, 3, 7, 64, 10_000])("keeps the last bytes in chunks of %i", (chunkBytes) => {
  const text = Array.from({ length: 500 }, (_, index) => `line ${index}\n`).join("");
  const ring = new TextRing(100);

  for (let offset = 0; offset < text.length; offset += chunkBytes) {
    ring.push(Buffer.from(text.slice(offset, offset + chunkBytes)));
  }

  expect(ring.toString()).toBe(text.slice(-100));
  expect(ring.lastLines(2)).toEqual(["line 498", "line 499"]);
});

test("bytes that are not UTF-8 are replaced, empty lines and the white space around lines dropped", () => {
  const ring = new TextRing(100);

  ring.push(Buffer.from([0xff, 0x61, 0x0a]));
  ring.push(Buffer.from("\r\n\n  b \r\n"));

  expect(ring.lastLines(5)).toEqual(["\ufffda", "b"]);
  expect(new TextRing(10).lastLines(5)).toEqual([]);
});
