import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { identify, isAlive, type ProcessIdentity } from "../../../src/base/processes.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { createHostState } from "../../../src/sandbox/host-state.ts";
import { readJournal } from "../../../src/sandbox/journal.ts";
import { removeSandbox } from "../../../src/sandbox/remove.ts";
import { mount } from "../../../src/storage/mount.ts";
import { serveShare } from "../../support/share-server.ts";
import { createTempDir, mountsBelow, type TempDir } from "../../support/temp-dir.ts";

const configOf = (dir: TempDir) => ({
  ...loadConfig({ environment: {}, executableDirectory: "/nowhere" }),
  stateDirectory: dir.join("state"),
  vmmUidCount: 2,
});
const nameIn = (dir: TempDir) => ({
  stateDirectory: dir.join("state"),
  namespace: dir.token,
  sandboxId: "s1",
});

/** A process that stands for QEMU. */
function startStandIn(): { child: ChildProcess; identity: ProcessIdentity; ended: Promise<unknown> } {
  const child = spawn("sleep", ["600"], { stdio: "ignore" });
  const identity = identify(child.pid ?? 0);
  if (identity === undefined) throw new Error("No stand-in");
  return { child, identity, ended: once(child, "exit") };
}

/** A sandbox with everything that its journal can hold (but a network), as a daemon leaves it that was killed. */
async function leaveSandbox(dir: TempDir) {
  const host = await createHostState(dir.token, "s1", configOf(dir));
  const { paths, shared, journal } = host;
  for (const name of ["rootfs", "volume", "bundle", "bundle/rootfs"]) mkdirSync(dir.join(name));
  for (const name of ["rootfs", "volume"]) writeFileSync(dir.join(name, "precious"), "host data");
  const standIn = startStandIn();
  journal.add({ kind: "process", name: "QEMU", identity: standIn.identity });
  journal.add({ kind: "container", containerId: "c1" });
  journal.add({ kind: "rootfs", path: dir.join("bundle", "rootfs") });
  await mount("bind", dir.join("rootfs"), dir.join("bundle", "rootfs"), ["rbind"]);
  const server = await serveShare(shared);
  for (const identity of server.processes) journal.add({ kind: "process", name: "virtiofsd", identity });
  await shared.addRootfs("c1", dir.join("bundle", "rootfs"), false);
  await shared.addMount("c1", dir.join("volume"), {
    recursive: true,
    readOnly: "all",
    propagation: "private",
  });
  journal.add({ kind: "netns", path: paths.netns });
  writeFileSync(paths.netns, "");
  mkdirSync(paths.vm);
  for (const name of ["vsock", "vsock_1026", "pid"]) writeFileSync(`${paths.vm}/${name}`, "");
  writeFileSync(paths.timeline, "[]");
  // Another that it was writing when it was killed.
  writeFileSync(`${paths.timeline}.0a1b2c3d`, "");
  shared[Symbol.dispose]();
  const reap = async () => {
    await standIn.ended;
    await server[Symbol.asyncDispose]();
  };
  return { host, processes: [standIn.identity, ...server.processes], reap };
}

test("createHostState() makes what the paths say, and removeSandbox() takes all of it away", async () => {
  await using dir = createTempDir();
  const host = await createHostState(dir.token, "s1", configOf(dir));

  expect(readdirSync(host.paths.directory).sort()).toEqual(["journal", "share"]);
  expect(readJournal(host.paths.directory)).toEqual([
    { kind: "daemon", identity: identify(process.pid) },
    { kind: "user", uid: host.uid, owner: `${dir.token}/s1` },
  ]);

  host.journal[Symbol.dispose]();
  await removeSandbox(nameIn(dir));
  expect(readdirSync(dir.join("state"))).toEqual([".user-ids"]);
  expect(readdirSync(dir.join("state", ".user-ids"))).toEqual([]);
});

test("removeSandbox() releases everything from the journal alone, and nothing behind a mount is touched", async () => {
  await using dir = createTempDir();
  const { processes, reap } = await leaveSandbox(dir);

  await removeSandbox(nameIn(dir));
  await reap();
  await removeSandbox(nameIn(dir));

  for (const identity of processes) expect(isAlive(identity)).toBe(false);
  expect(mountsBelow(dir.path)).toEqual([]);
  expect(readdirSync(dir.join("state"))).toEqual([".user-ids"]);
  expect(readdirSync(dir.join("state", ".user-ids"))).toEqual([]);
  for (const name of ["rootfs", "volume"]) {
    expect(readFileSync(dir.join(name, "precious"), "utf8")).toBe("host data");
  }
});

test("removeSandbox() twice at the same time is as good as once", async () => {
  await using dir = createTempDir();
  const { reap } = await leaveSandbox(dir);

  const results = await Promise.allSettled([removeSandbox(nameIn(dir)), removeSandbox(nameIn(dir))]);
  await reap();
  // One may find what the other is just taking away.
  if (results.some(({ status }) => status === "rejected")) await removeSandbox(nameIn(dir));

  expect(mountsBelow(dir.path)).toEqual([]);
  expect(readdirSync(dir.join("state"))).toEqual([".user-ids"]);
});

test("removeSandbox() of a sandbox that never was does nothing", async () => {
  await using dir = createTempDir();

  await removeSandbox(nameIn(dir));

  expect(existsSync(dir.join("state"))).toBe(false);
});

test("removeSandbox() leaves alone a process that has only the pid of one of ours", async () => {
  await using dir = createTempDir();
  const host = await createHostState(dir.token, "s1", configOf(dir));
  const stranger = startStandIn();
  host.journal.add({ kind: "process", name: "QEMU", identity: { ...stranger.identity, startTicks: "1" } });
  host.journal[Symbol.dispose]();

  await removeSandbox(nameIn(dir));

  expect(isAlive(stranger.identity)).toBe(true);
  stranger.child.kill("SIGKILL");
  await stranger.ended;
});

test("removeSandbox() leaves the user id alone that another sandbox has by now", async () => {
  await using dir = createTempDir();
  const config = { ...configOf(dir), vmmUidCount: 1 };
  const first = await createHostState(dir.token, "s1", config);
  await expect(createHostState(dir.token, "s2", config)).rejects.toMatchObject({
    code: "resource_exhausted",
  });

  // The failed one left nothing and took nothing away.
  expect(readdirSync(dir.join("state", dir.token))).toEqual(["s1"]);
  expect(readdirSync(dir.join("state", ".user-ids"))).toEqual([String(first.uid)]);
  first.journal[Symbol.dispose]();
  await removeSandbox(nameIn(dir));
});

test("removeSandbox() goes on past what it cannot release, names it, and the next call finishes", async () => {
  await using dir = createTempDir();
  const { host, reap } = await leaveSandbox(dir);
  // Nobody but a stranger makes a directory there; it is not deleted with what may be in it.
  mkdirSync(`${host.paths.vm}/stranger`);

  const error = (await removeSandbox(nameIn(dir)).catch((reason: unknown) => reason)) as AggregateError;
  await reap();

  expect(error.errors.map(({ message }: Error) => message)).toContain("Cannot release files of the VM");
  expect(mountsBelow(dir.path)).toEqual([]);
  expect(readdirSync(dir.join("state", ".user-ids"))).toEqual([]);
  rmdirSync(`${host.paths.vm}/stranger`);
  await removeSandbox(nameIn(dir));
  expect(readdirSync(dir.join("state"))).toEqual([".user-ids"]);
});

test("removeSandbox() takes what a crash left in the middle of an exposed bind", async () => {
  await using dir = createTempDir();
  const { host, reap } = await leaveSandbox(dir);
  const staging = `${host.paths.directory}/share/staging-c1`;
  mkdirSync(staging);
  await mount("bind", dir.join("volume"), staging, []);
  mkdirSync(`${host.paths.directory}/share/staging-c2`);

  await removeSandbox(nameIn(dir));
  await reap();

  expect(mountsBelow(dir.path)).toEqual([]);
  expect(existsSync(host.paths.directory)).toBe(false);
  expect(readFileSync(dir.join("volume", "precious"), "utf8")).toBe("host data");
});

test("removeSandbox() needs no space on a full disk", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("state"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=256k", "none", dir.join("state")]);
  const { host, reap } = await leaveSandbox(dir);
  try {
    writeFileSync(dir.join("state", "ballast"), Buffer.alloc(1024 * 1024));
  } catch {
    // Full, as it was to be.
  }

  await removeSandbox(nameIn(dir));
  await reap();

  expect(existsSync(host.paths.directory)).toBe(false);
  expect(mountsBelow(dir.path)).toEqual([dir.join("state")]);
});

test("createHostState() removes what an earlier sandbox of the name left, and takes its place", async () => {
  await using dir = createTempDir();
  const { reap } = await leaveSandbox(dir);

  const host = await createHostState(dir.token, "s1", configOf(dir));
  await reap();

  expect(mountsBelow(dir.path)).toEqual([host.shared.path]);
  expect(readdirSync(host.paths.directory).sort()).toEqual(["journal", "share"]);
  host.journal[Symbol.dispose]();
  await removeSandbox(nameIn(dir));
});

test("createHostState() under a file is an error that names the directory", async () => {
  await using dir = createTempDir();
  writeFileSync(dir.join("state"), "");

  await expect(createHostState(dir.token, "s1", configOf(dir))).rejects.toMatchObject({
    message: expect.stringContaining(dir.join("state")),
  });
});
