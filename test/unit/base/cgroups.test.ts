import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { hostCgroupVersion, joinCgroup } from "../../../src/base/cgroups.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

// A directory tree as cgroup v1 mounts it; the kernel's answer to a write is left to the tests with containerd.
let dir: TempDir;
const files = ["cpu,cpuacct/a/b", "memory/a/b", "pids/a"];
const procs = (path: string) => dir.join(path, "cgroup.procs");
beforeAll(() => {
  dir = createTempDir();
  for (const path of files) {
    mkdirSync(dir.join(path), { recursive: true });
    writeFileSync(procs(path), "");
    mkdirSync(dirname(procs(path)), { recursive: true });
  }
  symlinkSync("cpu,cpuacct", dir.join("cpu"));
});
afterAll(() => dir[Symbol.asyncDispose]());

test("joinCgroup() on a host with cgroup v1 joins every hierarchy that has it", async () => {
  expect(await hostCgroupVersion(dir.path)).toBe(1);

  await joinCgroup("/a/b", 42, dir.path);

  expect(files.map((path) => readFileSync(procs(path), "utf8"))).toEqual(["42", "42", ""]);
});

test("joinCgroup() fails when there is none, and says that it must be made", async () => {
  await expect(joinCgroup("/none", 42, dir.path)).rejects.toMatchObject({
    code: "not_found",
    message: expect.stringContaining("must be made first") as string,
  });
  await expect(joinCgroup("/a", 42, dir.join("nowhere"))).rejects.toMatchObject({ code: "not_found" });
});

test.for(["a/b", "/../a", "/a/../../x", "//a", "/a\0", "system.slice:x:y"])(
  "joinCgroup() refuses the path %j",
  async (path) => {
    await expect(joinCgroup(path, 42, dir.path)).rejects.toMatchObject({ code: "invalid_argument" });
  },
);
