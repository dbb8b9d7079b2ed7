import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { Mount } from "../../../src/sandbox/model.ts";
import { activate, deactivate, planActivation } from "../../../src/tasks/activation.ts";
import { createTempDir, mountsBelow, type TempDir } from "../../support/temp-dir.ts";

function bindOf(dir: TempDir, name: string): Mount {
  mkdirSync(dir.join(name), { recursive: true });
  writeFileSync(dir.join(name, "file"), name);
  return { type: "bind", source: dir.join(name), target: "", options: ["rbind", "ro"] };
}

const reference: Mount = { type: "format/bind", source: "{{ mount 1 }}", target: "", options: ["rbind"] };

/** Ids of the mounts, which a mount that is made anew has others of. */
function mountIds(directory: string): string[] {
  const lines = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  return lines
    .filter((line) => line.split(" ")[4]?.startsWith(directory))
    .map((line) => line.split(" ")[0] ?? "");
}

test("activate mounts, uses what is mounted already, and deactivate takes all of it away", async () => {
  await using dir = createTempDir();
  const active = dir.join("active");
  mkdirSync(active);
  const plan = planActivation([bindOf(dir, "a"), bindOf(dir, "b"), reference], active, new Set());

  expect(await activate(plan, active)).toEqual([{ ...reference, type: "bind", source: `${active}/1` }]);
  expect(readFileSync(`${active}/1/file`, "utf8")).toBe("b");
  const before = mountIds(active);
  await activate(plan, active);
  expect(mountIds(active)).toEqual(before);

  deactivate(active);
  deactivate(active);
  expect(mountsBelow(active)).toEqual([]);
});

test("activate goes on where one that failed has stopped", async () => {
  await using dir = createTempDir();
  const active = dir.join("active");
  mkdirSync(active);
  const missing: Mount = { type: "bind", source: dir.join("missing"), target: "", options: ["rbind"] };
  const plan = planActivation([bindOf(dir, "a"), missing, reference], active, new Set());

  await expect(activate(plan, active)).rejects.toThrow();
  const [first] = mountIds(active);
  mkdirSync(dir.join("missing"));
  await activate(plan, active);

  expect(mountIds(active)[0]).toBe(first);
  expect(existsSync(`${active}/1`)).toBe(true);
  deactivate(active);
});
