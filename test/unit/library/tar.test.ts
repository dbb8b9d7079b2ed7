import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { buffer } from "node:stream/consumers";
import { expect, test } from "vitest";
import { tarOf } from "../../../src/library/tar.ts";
import { createTempDir } from "../../support/temp-dir.ts";

/** What tar(1) lists of it. */
const list = (tar: Buffer) => execFileSync("tar", ["-tf", "-"], { input: tar, encoding: "utf8" }).split("\n");

test("files, directories and links are in it, links as such, and no descriptor stays open", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("tree/a/b"), { recursive: true });
  writeFileSync(dir.join("tree/a/b/file"), "x".repeat(1_000_000));
  writeFileSync(dir.join("tree/empty"), "");
  symlinkSync("/etc", dir.join("tree/out"));
  execFileSync("mkfifo", [dir.join("tree/fifo")]);
  const descriptors = readdirSync("/proc/self/fd").length;

  const tar = await buffer(tarOf(dir.join("tree")));

  expect(list(tar)).toEqual(["a/", "a/b/", "a/b/file", "empty", "out", ""]);
  expect(tar.length).toBeGreaterThan(1_000_000);
  expect(readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(descriptors);
});

test("a directory that becomes a link while it is read does not lead out of the tree", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("outside"));
  writeFileSync(dir.join("outside/secret"), "secret");
  mkdirSync(dir.join("tree/a"), { recursive: true });
  // Nothing is read further before somebody has taken it.
  writeFileSync(dir.join("tree/a/first"), Buffer.alloc(4_000_000));
  mkdirSync(dir.join("tree/b"));
  const tar = tarOf(dir.join("tree"));
  tar.once("readable", () => {
    for (const name of ["a", "b"]) renameSync(dir.join("tree", name), dir.join(`moved-${name}`));
    symlinkSync(dir.join("outside"), dir.join("tree/a"));
    symlinkSync(dir.join("outside"), dir.join("tree/b"));
  });

  const names = list(await buffer(tar));

  expect(names).toContain("a/first");
  expect(names.filter((name) => name.includes("secret"))).toEqual([]);
});

test("a file that shrinks while it is read makes it fail", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("tree"));
  writeFileSync(dir.join("tree/file"), Buffer.alloc(8_000_000));
  const tar = tarOf(dir.join("tree"));
  tar.once("readable", () => writeFileSync(dir.join("tree/file"), ""));

  await expect(buffer(tar)).rejects.toThrow();
});
