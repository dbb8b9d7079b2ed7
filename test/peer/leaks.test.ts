import { type ChildProcess, execFileSync, spawn, type SpawnOptions } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  mkdirSync,
  openSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { expectNoLeaks, takeSnapshot } from "../support/leaks.ts";
import type { Kind } from "../support/leaks-scope.ts";
import { createTempDir, type TempDir } from "../support/temp-dir.ts";

interface Plant {
  readonly name: string;
  readonly kind: Kind;
  /** Makes the leak and returns what removes it. */
  readonly plant: (dir: TempDir) => Promise<() => unknown>;
}

const sh = (file: string, ...args: string[]) =>
  execFileSync(file, args, { encoding: "utf8", stdio: "pipe" }).trim();

const plants: Plant[] = [
  {
    name: "a program of ours",
    kind: "process",
    plant: () => plantProcess("/bin/sleep", ["600"], { argv0: "qemu-system-x86_64" }),
  },
  {
    name: "a Node program of ours",
    kind: "process",
    plant: async (dir) =>
      plantProcess("/bin/sleep", ["600"], { argv0: dir.join("containerd-shim-caisson-v2") }),
  },
  {
    name: "any program that works in the test's directory",
    kind: "process",
    plant: (dir) => plantProcess("/bin/sleep", ["600"], { cwd: dir.path }),
  },
  {
    name: "any program with the test's token in its environment",
    kind: "process",
    plant: (dir) => plantProcess("/bin/sleep", ["600"], { env: { ID: dir.token } }),
  },
  { name: "a helper that was not reaped", kind: "zombie", plant: plantZombie },
  {
    name: "a mount",
    kind: "mount",
    plant: async (dir) => {
      const point = makeDirectory(dir, "mount point");
      sh("mount", "-t", "tmpfs", "none", point);
      return () => sh("umount", point);
    },
  },
  {
    name: "a tap",
    kind: "link",
    plant: async (dir) => {
      sh("ip", "tuntap", "add", "dev", `t${dir.token}`, "mode", "tap");
      return () => sh("ip", "link", "delete", `t${dir.token}`);
    },
  },
  {
    name: "a tap in a named network namespace",
    kind: "link",
    plant: async (dir) => {
      sh("ip", "netns", "add", dir.token);
      sh("ip", "-n", dir.token, "tuntap", "add", "dev", "tap0", "mode", "tap");
      return () => sh("ip", "netns", "delete", dir.token);
    },
  },
  {
    name: "an ingress hook",
    kind: "qdisc",
    plant: async (dir) => {
      const name = `t${dir.token}`;
      sh("ip", "link", "add", name, "type", "veth", "peer", "name", `u${dir.token}`);
      sh("tc", "qdisc", "add", "dev", name, "ingress");
      return () => sh("ip", "link", "delete", name);
    },
  },
  {
    name: "a named network namespace",
    kind: "network namespace",
    plant: async (dir) => {
      sh("ip", "netns", "add", dir.token);
      return () => sh("ip", "netns", "delete", dir.token);
    },
  },
  {
    name: "a network namespace mounted at a file",
    kind: "network namespace",
    plant: async (dir) => {
      writeFileSync(dir.join("netns"), "");
      sh("unshare", `--net=${dir.join("netns")}`, "true");
      return () => {
        sh("umount", dir.join("netns"));
        rmSync(dir.join("netns"));
      };
    },
  },
  {
    name: "a network namespace held by a process",
    kind: "network namespace",
    plant: (dir) =>
      plantShell(
        `exec unshare --net sh -c 'echo started; exec "$0" 600' "$0"`,
        linkTo(dir, "holder", "/bin/sleep"),
      ),
  },
  {
    name: "a cgroup (v1 pids)",
    kind: "cgroup",
    plant: (dir) => plantDirectory(`${cgroupRoot("pids")}/caisson-${dir.token}`),
  },
  {
    name: "a nested cgroup with only the token in its name",
    kind: "cgroup",
    plant: (dir) => plantDirectory(`${cgroupRoot("memory")}/${dir.token}`),
  },
  {
    name: "a cgroup (v2)",
    kind: "cgroup",
    plant: (dir) => plantDirectory(`${cgroupRoot("unified")}/${dir.token}`),
  },
  { name: "a unix socket", kind: "unix socket", plant: (dir) => plantSocket(dir.join("socket")) },
  {
    name: "an abstract unix socket",
    kind: "unix socket",
    plant: (dir) => plantSocket(`\0caisson/${dir.token}`),
  },
  { name: "a file in the test's directory", kind: "file", plant: (dir) => plantFile(dir.join("left")) },
  {
    name: "a directory of the product",
    kind: "file",
    plant: (dir) => plantDirectory(`/run/caisson/${dir.token}`),
  },
  { name: "a shim's socket file", kind: "file", plant: (dir) => plantFile(`/run/containerd/s/${dir.token}`) },
  { name: "a file in /tmp", kind: "file", plant: (dir) => plantFile(`/tmp/caisson-left-${dir.token}`) },
  {
    name: "a file in /dev/shm",
    kind: "file",
    plant: (dir) => plantFile(`/dev/shm/caisson-left-${dir.token}`),
  },
  { name: "a user's run directory", kind: "file", plant: (dir) => plantDirectory(`/run/user/${dir.token}`) },
  {
    name: "a loop device",
    kind: "block device",
    plant: async (dir) => {
      const removeFile = await plantFile(dir.join("disk"));
      truncateSync(dir.join("disk"), 1024 * 1024);
      const device = sh("losetup", "--find", "--show", dir.join("disk"));
      return () => {
        sh("losetup", "--detach", device);
        removeFile();
      };
    },
  },
  {
    name: "a file that containerd keeps open",
    kind: "containerd's open file",
    plant: async () => {
      const fd = openSync("/dev/null", "r");
      return () => closeSync(fd);
    },
  },
  {
    name: "a user",
    kind: "user",
    plant: async (dir) => {
      sh("useradd", "--system", "--no-create-home", dir.token);
      return () => sh("userdel", dir.token);
    },
  },
];

test.for(plants)("expectNoLeaks() finds $name and is content once it is gone", async ({ kind, plant }) => {
  await using dir = createTempDir();
  const scope = { marks: [dir.token], directories: [dir.path], containerdPid: process.pid };
  const before = await takeSnapshot(scope);
  const remove = await plant(dir);
  try {
    const failure = await expectNoLeaks(before, { settleMs: 0 }).catch((error: Error) => error.message);

    // A line of the test's own, not of another run on this machine.
    expect(failure).toMatch(new RegExp(`^ +left: +${kind} (?!.*no mark of this test)`, "m"));
  } finally {
    await remove();
  }
  // What the plant needed besides (a mount point) is not at issue here.
  const things = await takeSnapshot(scope);
  expect([...things.things.values()].filter((thing) => thing.kind === kind && thing.isMarked)).toEqual(
    [...before.things.values()].filter((thing) => thing.kind === kind && thing.isMarked),
  );
});

test("expectNoLeaks() reports a mount that was there before and is gone", async () => {
  await using dir = createTempDir();
  const point = makeDirectory(dir, "mounted before");
  sh("mount", "-t", "tmpfs", "none", point);
  const before = await takeSnapshot({ marks: [dir.token] });
  sh("umount", point);

  await expect(expectNoLeaks(before, { settleMs: 0 })).rejects.toThrow(/missing: mount .*mounted before/);
});

test("expectNoLeaks() waits for what ends in time", async () => {
  await using dir = createTempDir();
  const before = await takeSnapshot({ marks: [dir.token], directories: [dir.path] });
  const removed = plantFile(dir.join("soon gone")).then(async (remove) => {
    await sleep(300); // The thing under test is that time passes.
    remove();
  });

  await expectNoLeaks(before, { settleMs: 10_000 });
  await removed;
});

test("the temporary directory is not removed through a mount", async () => {
  const dir = createTempDir();
  await using other = createTempDir();
  writeFileSync(other.join("kept"), "");
  const point = makeDirectory(dir, "bind");
  sh("mount", "--bind", other.path, point);

  await dir[Symbol.asyncDispose]();

  expect(sh("ls", other.path)).toBe("kept");
});

async function plantProcess(
  file: string,
  args: string[],
  options: SpawnOptions = {},
): Promise<() => Promise<void>> {
  const child = spawn(file, args, { stdio: "ignore", ...options });
  await once(child, "spawn");
  return () => end(child);
}

/** A shell starts a child and turns into a program that never waits for it. */
async function plantZombie(dir: TempDir): Promise<() => Promise<void>> {
  const helper = linkTo(dir, "virtiofsd", "/bin/sleep");
  const remove = await plantShell('"$0" 0 & echo started; exec sleep 600', helper);
  await sleep(500); // Nobody is told of a zombie.
  return remove;
}

/** Runs a script that says when its leak is there and then becomes a program that stays. */
async function plantShell(script: string, argument: string): Promise<() => Promise<void>> {
  const child = spawn("sh", ["-c", `exec 2>&1; ${script}`, argument], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  await once(child.stdout, "data");
  return () => end(child);
}

async function end(child: ChildProcess): Promise<void> {
  child.kill("SIGKILL");
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}

async function plantSocket(path: string): Promise<() => void> {
  const server = createServer().listen(path);
  await once(server, "listening");
  return () => void server.close();
}

async function plantFile(path: string): Promise<() => void> {
  mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  writeFileSync(path, "");
  return () => rmSync(path);
}

async function plantDirectory(path: string): Promise<() => void> {
  mkdirSync(path, { recursive: true });
  return () => rmdirSync(path);
}

function makeDirectory(dir: TempDir, name: string): string {
  mkdirSync(dir.join(name));
  return dir.join(name);
}

function linkTo(dir: TempDir, name: string, target: string): string {
  symlinkSync(target, dir.join(name));
  return dir.join(name);
}

/** Where the hierarchy is mounted in a v1 or hybrid layout, else the one v2 hierarchy. */
function cgroupRoot(name: string): string {
  const mounts = sh(
    "findmnt",
    "--list",
    "--noheadings",
    "--output",
    "TARGET",
    "--types",
    "cgroup,cgroup2",
  ).split("\n");
  const root = mounts.find((point) => point.endsWith(`/${name}`)) ?? mounts[0];
  if (root === undefined) throw new Error("Cannot plant a cgroup: no cgroup file system is mounted");
  return root;
}
