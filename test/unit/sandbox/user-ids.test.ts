import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { returnUserId, takeUserId } from "../../../src/sandbox/user-ids.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const makePool = (stateDirectory: string, count: number) => ({ stateDirectory, base: 1_000, count });
const ignore = () => {};

test("every sandbox gets an id of its own until all are taken, and a returned one is given again", async () => {
  await using dir = createTempDir();
  const pool = makePool(dir.path, 8);
  const owners = Array.from({ length: 8 }, (_, index) => `default/s${index}`);

  const uids = owners.map((owner) => takeUserId(pool, owner, ignore));
  expect(uids.toSorted((a, b) => a - b)).toEqual([1_000, 1_001, 1_002, 1_003, 1_004, 1_005, 1_006, 1_007]);
  expect(() => takeUserId(pool, "default/more", ignore)).toThrow(
    expect.objectContaining({
      code: "resource_exhausted",
      message: expect.stringContaining("vmm_uid_count"),
    }),
  );

  returnUserId(dir.path, uids[3] ?? 0, "default/s3");
  expect(takeUserId(pool, "default/more", ignore)).toBe(uids[3]);
});

test("an id is given back by its owner only, and twice is as good as once", async () => {
  await using dir = createTempDir();
  const pool = makePool(dir.path, 1);
  const uid = takeUserId(pool, "default/s1", ignore);

  returnUserId(dir.path, uid, "default/s");
  returnUserId(dir.path, uid, "other/s1");
  expect(() => takeUserId(pool, "default/s2", ignore)).toThrow("all 1 from 1000 are taken");

  returnUserId(dir.path, uid, "default/s1");
  returnUserId(dir.path, uid, "default/s1");
  expect(takeUserId(pool, "default/s2", ignore)).toBe(uid);
});

test("each id is told right before it is tried, so that a crash in between loses none", async () => {
  await using dir = createTempDir();
  const pool = makePool(dir.path, 4);
  const first = takeUserId(pool, "default/s1", ignore);
  const told: number[] = [];

  // The same owner begins at the same id.
  const second = takeUserId(pool, "default/s1", (uid) => told.push(uid));

  expect(told).toEqual([first, second]);
});

test("an id that cannot be told of (no space for the journal) is not taken", async () => {
  await using dir = createTempDir();
  const pool = makePool(dir.path, 1);

  expect(() =>
    takeUserId(pool, "default/s1", () => {
      throw new Error("no space");
    }),
  ).toThrow("no space");

  expect(takeUserId(pool, "default/s2", ignore)).toBe(1_000);
});

test("a full disk leaves no id taken without an owner", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("disk"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=8k", "none", dir.join("disk")]);
  const pool = makePool(dir.join("disk"), 4);
  mkdirSync(dir.join("disk", ".user-ids"));
  try {
    writeFileSync(dir.join("disk", "ballast"), Buffer.alloc(64 * 1024));
  } catch {
    // Full, as it was to be.
  }

  // Longer than what an inode holds by itself, so that it needs a block.
  const owner = `${"n".repeat(76)}/${"s".repeat(76)}`;
  try {
    returnUserId(dir.join("disk"), takeUserId(pool, owner, ignore), owner);
  } catch {
    // Refused is as good.
  }

  expect(readdirSync(dir.join("disk", ".user-ids"))).toEqual([]);
});
