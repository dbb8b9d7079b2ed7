/** With the machine's own cgroup file systems: whichever versions it has. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, statfsSync, writeFileSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { createLog } from "../../../src/base/log.ts";
import { type CgroupPlace, makePodCgroup, removePodCgroup } from "../../../src/sandbox/pod-cgroup.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const mountPoint = "/sys/fs/cgroup";
const cgroup2Magic = 0x6367_7270;
const isUnified = (path: string) => existsSync(path) && statfsSync(path).type === cgroup2Magic;
const unified = [mountPoint, `${mountPoint}/unified`].find(isUnified);
const log = createLog("error", process.stderr);

const top = `caisson-test-${process.pid}`;
let made: CgroupPlace[] = [];
afterEach(async () => {
  await removePodCgroup(made);
  made = [];
});
const make = (root: string, path = `/${top}/pod/c1`) =>
  makePodCgroup(path, { root, log, onMake: (directory) => made.push(directory) });

/** A process with a child, as virtiofsd is one. */
async function startPair() {
  const child = spawn("sh", ["-c", "echo up; read go; sleep 600 & echo $!; wait"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  const end = once(child, "close");
  return {
    pid: child.pid ?? 0,
    fork: async () => {
      child.stdin.write("go\n");
      return Number(String((await once(child.stdout, "data"))[0]));
    },
    end: async (childPid: number) => {
      child.kill("SIGKILL");
      process.kill(childPid, "SIGKILL");
      await end;
    },
  };
}

/** `/proc/<pid>/cgroup` by its controllers; "" for the unified hierarchy. */
function cgroupsOf(pid: number): Map<string, string> {
  const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").trim().split("\n");
  return new Map(lines.map((line) => line.split(":").slice(1) as [string, string]));
}

test.skipIf(isUnified(mountPoint) || !existsSync(`${mountPoint}/memory`))(
  "cgroup v1: a process and what it starts are in every hierarchy that accounts, and all of it goes again",
  async () => {
    const pair = await startPair();
    const cgroup = await make(mountPoint);
    cgroup.add(pair.pid);
    await cgroup.moved();
    const child = await pair.fork();

    for (const pid of [pair.pid, child]) {
      const own = [...cgroupsOf(pid)].filter(([names]) =>
        names
          .split(",")
          .some((name) => ["memory", "cpu", "cpuacct", "cpuset", "pids", "blkio"].includes(name)),
      );
      expect(own.length).toBeGreaterThan(3);
      for (const [, path] of own) expect(path).toBe(`/${top}/pod/c1`);
    }
    expect(made[0]).toEqual({ hierarchy: `${mountPoint}/memory`, place: `/${top}/pod/c1` });

    await pair.end(child);
    await removePodCgroup(made);
    for (const { hierarchy } of made) expect(existsSync(`${hierarchy}/${top}`)).toBe(false);
  },
);

test.skipIf(unified === undefined)("cgroup v2: the same in the unified hierarchy", async () => {
  const root = unified ?? "";
  const pair = await startPair();
  const place = `/${top}.slice/${top}-pod1.slice/cri-containerd-c1.scope`;
  const cgroup = await make(root, place);
  cgroup.add(pair.pid);
  await cgroup.moved();
  const child = await pair.fork();

  for (const pid of [pair.pid, child]) expect(cgroupsOf(pid).get("")).toBe(place);
  // What the root has to give has reached the cgroup itself.
  const controllers = (path: string) => readFileSync(`${path}/cgroup.controllers`, "utf8");
  for (const name of ["memory", "hugetlb"].filter((each) => controllers(root).includes(each)))
    expect(controllers(`${root}${place}`)).toContain(name);

  await pair.end(child);
  await removePodCgroup(made);
  for (const { hierarchy } of made) expect(existsSync(`${hierarchy}/${top}.slice`)).toBe(false);
});

const anyRoot = isUnified(mountPoint) ? mountPoint : `${mountPoint}/unified`;

test.skipIf(!isUnified(anyRoot))(
  "a parent that others use stays, and so does one that was there before",
  async () => {
    mkdirSync(`${anyRoot}/${top}`);
    await make(anyRoot);
    const first = made;
    made = [];
    await make(anyRoot, `/${top}/pod/c2`);
    await removePodCgroup(first);
    expect(existsSync(`${anyRoot}/${top}/pod/c1`)).toBe(false);
    expect(existsSync(`${anyRoot}/${top}/pod/c2`)).toBe(true);

    // The last one takes along what the first one has made.
    await removePodCgroup(made);
    expect(existsSync(`${anyRoot}/${top}/pod`)).toBe(false);
    expect(existsSync(`${anyRoot}/${top}`)).toBe(true);
    execFileSync("rmdir", [`${anyRoot}/${top}`]);
  },
);

test.skipIf(!isUnified(anyRoot))(
  "a process that has ended is no error, and one that cannot be moved is one",
  async () => {
    const cgroup = await make(anyRoot);
    const ended = spawn("true");
    await once(ended, "exit");
    cgroup.add(ended.pid ?? 0);
    await cgroup.moved();

    execFileSync("rmdir", [`${anyRoot}/${top}/pod/c1`]);
    cgroup.add(process.pid);
    await expect(cgroup.moved()).rejects.toMatchObject({
      code: "not_found",
      message: expect.stringContaining(`Cannot move process ${process.pid}`) as string,
    });
  },
);

test.skipIf(!isUnified(anyRoot))("a read-only cgroup file system is refused with what to do", async () => {
  await using dir = createTempDir();
  const root = dir.join("cgroup");
  mkdirSync(root);
  execFileSync("mount", ["--bind", anyRoot, root]);
  execFileSync("mount", ["-o", "remount,bind,ro", root]);

  await expect(make(root)).rejects.toMatchObject({
    code: "permission_denied",
    message: expect.stringContaining("host_cgroup") as string,
  });
});

test("a host without cgroups goes without", async () => {
  await using dir = createTempDir();
  writeFileSync(dir.join("file"), "");
  const cgroup = await make(dir.path);
  cgroup.add(process.pid);
  await cgroup.moved();

  expect(made).toEqual([]);
});
