import { existsSync, mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { createNetns, isNetns, isOwnNetns, removeNetns } from "../../../src/network/netns.ts";
import { signal } from "./pod.ts";

test("createNetns() makes a namespace with its loopback up, removeNetns() removes it, twice", async () => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-netns-"));
  const path = join(directory, "netns");
  await createNetns(path, { signal });
  expect(await isNetns(path)).toBe(true);
  expect(await isOwnNetns(path)).toBe(false);
  const links = execFileSync("nsenter", [`--net=${path}`, "ip", "-brief", "link"], { encoding: "utf8" });
  expect(links).toMatch(/^lo +\S+ +00:00:00:00:00:00 <LOOPBACK,UP,LOWER_UP>/);
  expect(
    links
      .trim()
      .split("\n")
      .filter((line) => line.includes("UP")),
  ).toHaveLength(1);

  await expect(createNetns(path, { signal })).rejects.toMatchObject({ code: "already_exists" });
  expect(await isNetns(path)).toBe(true);

  await removeNetns(path);
  expect(existsSync(path)).toBe(false);
  await removeNetns(path);
  rmdirSync(directory);
});

test("createNetns() leaves no file behind when it fails", async () => {
  await expect(createNetns("/nonexistent/netns", { signal })).rejects.toMatchObject({ code: "not_found" });
  const directory = mkdtempSync(join(tmpdir(), "caisson-netns-"));
  const path = join(directory, "netns");
  await expect(createNetns(path, { signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow(
    "enough",
  );
  expect(existsSync(path)).toBe(false);
  rmdirSync(directory);
});

test("removeNetns() removes a file that is no namespace (any more)", async () => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-netns-"));
  const path = join(directory, "netns");
  execFileSync("touch", [path]);
  await removeNetns(path);
  expect(existsSync(path)).toBe(false);
  rmdirSync(directory);
});
