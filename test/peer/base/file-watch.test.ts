import { mkdirSync, rmdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { watchForFile } from "../../../src/base/file-watch.ts";
import { within } from "../../../src/base/scope.ts";
import { createTempDir } from "../../support/temp-dir.ts";

test("watchForFile() notices a file that is there already, and one that comes", async () => {
  await using dir = createTempDir();
  using coming = watchForFile(dir.join("x"));
  expect(await within(coming.appeared, 20, "not yet")).toBe("not yet");

  writeFileSync(dir.join("other"), "");
  writeFileSync(dir.join("x"), "");
  await coming.appeared;

  using present = watchForFile(dir.join("x"));
  await present.appeared;
});

test("watchForFile() stays quiet when its directory is removed", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("d"));
  using watch = watchForFile(dir.join("d", "x"));

  rmdirSync(dir.join("d"));

  expect(await within(watch.appeared, 50, "nothing")).toBe("nothing");
});
