import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { createSharedDir, removeSharedDir } from "../../../src/storage/shared-dir.ts";
import type { BindOptions } from "../../../src/storage/shared-volumes.ts";
import { serveShare } from "../../support/share-server.ts";
import { createTempDir, mountsBelow, type TempDir } from "../../support/temp-dir.ts";

function options(readOnly: BindOptions["readOnly"] = "none"): BindOptions {
  return { recursive: true, readOnly, propagation: "private" };
}

/** A directory with one file, as a volume or root file system of a container. */
function makeSource(dir: TempDir, name: string): string {
  const path = dir.join(name);
  mkdirSync(path);
  writeFileSync(`${path}/precious`, "host data");
  return path;
}

/** A volume that is a shared mount with another file system mounted in it, as systemd leaves every mount of a host. */
function makeVolumeWithSubmount(dir: TempDir): string {
  const volume = dir.join("volume");
  mkdirSync(volume);
  execFileSync("mount", ["-t", "tmpfs", "--make-shared", "none", volume]);
  mkdirSync(`${volume}/disk`);
  execFileSync("mount", ["-t", "tmpfs", "none", `${volume}/disk`]);
  writeFileSync(`${volume}/disk/precious`, "host data");
  return volume;
}

test("a root file system, directories and files appear in the share and are gone after the removal", async () => {
  await using dir = createTempDir();
  const rootfs = makeSource(dir, "rootfs-source");
  const volume = makeSource(dir, "volume");
  mkdirSync(dir.join("sandbox"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using server = await serveShare(shared);

  expect(await shared.addRootfs("c1", rootfs, false)).toBe("c1/rootfs");
  expect(await shared.addMount("c1", volume, options())).toEqual({ path: ".volumes/0", hasMounts: false });
  expect(await shared.addMount("c1", `${volume}/precious`, options())).toEqual({
    path: ".volumes/1",
    hasMounts: false,
  });
  writeFileSync(`${server.root}/.volumes/0/from-guest`, "guest data");

  expect(readFileSync(`${server.root}/c1/rootfs/precious`, "utf8")).toBe("host data");
  expect(readFileSync(`${server.root}/.volumes/1`, "utf8")).toBe("host data");
  expect(readFileSync(`${volume}/from-guest`, "utf8")).toBe("guest data");
  expect(readdirSync(dir.join("sandbox")).sort()).toEqual(["share"]);

  await shared.removeContainer("c1");
  await shared.removeContainer("c1");
  expect(readdirSync(shared.path)).toEqual([".volumes"]);
  expect(readdirSync(`${shared.path}/.volumes`)).toEqual([]);
  expect(server.mounts()).toEqual([]);
  expect(mountsBelow(dir.path)).toEqual([shared.path]);

  await removeSharedDir(dir.join("sandbox"), ["c1"]);
  await removeSharedDir(dir.join("sandbox"), ["c1"]);
  expect(readdirSync(dir.join("sandbox"))).toEqual([]);
  expect(readdirSync(volume).sort()).toEqual(["from-guest", "precious"]);
});

test("what containers bind in the same way is one mount, which goes with the last of them", async () => {
  await using dir = createTempDir();
  const volume = makeSource(dir, "volume");
  const other = makeSource(dir, "other");
  mkdirSync(dir.join("sandbox"));
  symlinkSync(volume, dir.join("link"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using server = await serveShare(shared);

  const paths = await Promise.all([
    shared.addMount("c1", volume, options()),
    shared.addMount("c2", dir.join("link"), options()),
    shared.addMount("c2", volume, options("all")),
    shared.addMount("c2", other, options()),
  ]);
  expect(paths[1]).toEqual(paths[0]);
  expect(new Set(paths.map(({ path }) => path)).size).toBe(3);

  await shared.removeContainer("c2");
  expect(server.mounts()).toEqual([`/${paths[0].path}`]);
  // What is mounted in it by now comes along: it is not the same any more.
  execFileSync("mount", ["-t", "tmpfs", "none", volume]);
  expect(await shared.addMount("c3", volume, options())).not.toEqual(paths[0]);
  await shared.removeContainer("c3");
  await shared.removeContainer("c1");
  expect(server.mounts()).toEqual([]);
  await removeSharedDir(dir.join("sandbox"), ["c1", "c2", "c3"]);
});

test("removeSharedDir() with every mount still inside deletes nothing of the host", async () => {
  await using dir = createTempDir();
  const rootfs = makeSource(dir, "rootfs-source");
  const volume = makeSource(dir, "volume");
  mkdirSync(dir.join("sandbox"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using _server = await serveShare(shared);
  await shared.addRootfs("c1", rootfs, false);
  await shared.addMount("c1", volume, options());
  await shared.addMount("c1", `${volume}/precious`, options("all"));
  // And one that nobody should have made.
  execFileSync("mount", ["--bind", volume, `${shared.path}/c1/rootfs`]);

  await removeSharedDir(dir.join("sandbox"), ["c1"]);

  expect(readFileSync(`${rootfs}/precious`, "utf8")).toBe("host data");
  expect(readFileSync(`${volume}/precious`, "utf8")).toBe("host data");
  expect(readdirSync(dir.join("sandbox"))).toEqual([]);
});

test("the guest cannot write between the mounts, so it never chooses what the host mounts on or deletes", async () => {
  await using dir = createTempDir();
  const rootfs = makeSource(dir, "rootfs-source");
  mkdirSync(dir.join("victim"));
  writeFileSync(dir.join("victim", "precious"), "host data");
  mkdirSync(dir.join("sandbox"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using server = await serveShare(shared);
  await shared.addRootfs("c1", rootfs, false);

  const attempts = [
    () => symlinkSync(dir.join("victim"), `${server.root}/c1/mounts`),
    () => symlinkSync(dir.join("victim"), `${server.root}/c2`),
    () => mkdirSync(`${server.root}/c2`),
    () => execFileSync("mv", [`${server.root}/c1`, `${server.root}/c9`], { stdio: "pipe" }),
    () => writeFileSync(`${server.root}/file`, ""),
  ];
  for (const attempt of attempts) expect(attempt).toThrow(/EROFS|Read-only/);

  await shared.removeContainer("c1");
  await removeSharedDir(dir.join("sandbox"), ["c1", "c2"]);
  expect(readdirSync(dir.join("victim"))).toEqual(["precious"]);
});

test("a read-only bind cannot be written, nor what is mounted below it", async () => {
  await using dir = createTempDir();
  const volume = makeVolumeWithSubmount(dir);
  mkdirSync(dir.join("sandbox"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using server = await serveShare(shared);
  await shared.addMount("c1", volume, options("all"));
  await shared.addMount("c1", volume, { ...options("all"), propagation: "slave" });

  for (const index of [0, 1]) {
    const path = `${server.root}/.volumes/${index}`;
    expect(readFileSync(`${path}/disk/precious`, "utf8")).toBe("host data");
    expect(() => writeFileSync(`${path}/new`, "")).toThrow("EROFS");
    expect(() => writeFileSync(`${path}/disk/new`, "")).toThrow("EROFS");
  }
  writeFileSync(`${volume}/disk/of the host`, "");

  await removeSharedDir(dir.join("sandbox"), ["c1"]);
});

test("the removal of a container leaves alone what is mounted below a volume on the host", async () => {
  await using dir = createTempDir();
  const volume = makeVolumeWithSubmount(dir);
  mkdirSync(dir.join("sandbox"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using _server = await serveShare(shared);
  await shared.addRootfs("c1", volume, false);
  await shared.addMount("c1", volume, options());
  await shared.addMount("c1", volume, options("all"));

  await shared.removeContainer("c1");

  expect(readFileSync(`${volume}/disk/precious`, "utf8")).toBe("host data");
  await removeSharedDir(dir.join("sandbox"), ["c1"]);
  expect(mountsBelow(dir.path)).toEqual([`${volume}/disk`, volume]);
});

test("the host can unmount and remove what was mounted below a volume that a container has", async () => {
  await using dir = createTempDir();
  const volume = makeVolumeWithSubmount(dir);
  mkdirSync(dir.join("sandbox"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using server = await serveShare(shared);
  await shared.addMount("c1", volume, options());
  await shared.addMount("c1", volume, { ...options(), propagation: "slave" });
  expect(server.mounts().sort()).toEqual([0, 1].flatMap((n) => [`/.volumes/${n}`, `/.volumes/${n}/disk`]));

  execFileSync("umount", [`${volume}/disk`]);
  rmdirSync(`${volume}/disk`);

  await shared.removeContainer("c1");
  expect(server.mounts()).toEqual([]);
  await removeSharedDir(dir.join("sandbox"), ["c1"]);
});

test("what is added before the share is served is there once it is, and fails when it will not be", async () => {
  await using dir = createTempDir();
  const volume = makeVolumeWithSubmount(dir);
  for (const name of ["one", "two"]) mkdirSync(dir.join(name));
  const shared = await createSharedDir(dir.join("one"));
  const adding = shared.addMount("c1", volume, options());
  await using server = await serveShare(shared);
  await adding;
  expect(server.mounts()).toEqual(["/.volumes/0", "/.volumes/0/disk"]);
  await removeSharedDir(dir.join("one"), ["c1"]);

  using other = await createSharedDir(dir.join("two"));
  const waiting = other.addMount("c1", volume, options());
  // A process with another root.
  expect(() => other.serve(process.pid)).toThrow(/is not its root/);
  other.abandon(new Error("no server"));
  await expect(waiting).rejects.toThrow("no server");
  await removeSharedDir(dir.join("two"), ["c1"]);
  expect(mountsBelow(dir.path)).toEqual([`${volume}/disk`, volume]);
});

test("removeSharedDir() finds the mounts of a state directory that is named through a symbolic link", async () => {
  await using dir = createTempDir();
  const rootfs = makeSource(dir, "rootfs-source");
  mkdirSync(dir.join("real", "sandbox"), { recursive: true });
  symlinkSync(dir.join("real"), dir.join("link"));
  const shared = await createSharedDir(dir.join("link", "sandbox"));
  await using _server = await serveShare(shared);
  await shared.addRootfs("c1", rootfs, true);

  await removeSharedDir(dir.join("link", "sandbox"), ["c1"]);

  expect(mountsBelow(dir.path)).toEqual([]);
  expect(readdirSync(dir.join("real", "sandbox"))).toEqual([]);
});

const refused = [
  { name: "nothing there", make: () => {}, code: "not_found" },
  { name: "a FIFO", make: (path: string) => execFileSync("mkfifo", [path]), code: "invalid_argument" },
  {
    name: "a device",
    make: (path: string) => execFileSync("mknod", [path, "c", "1", "3"]),
    code: "invalid_argument",
  },
];

test.each(refused)("addMount() of $name is refused and leaves nothing", async ({ make, code }) => {
  await using dir = createTempDir();
  mkdirSync(dir.join("sandbox"));
  make(dir.join("source"));
  const shared = await createSharedDir(dir.join("sandbox"));
  await using server = await serveShare(shared);

  await expect(shared.addMount("c1", dir.join("source"), options("all"))).rejects.toMatchObject({
    code,
    message: expect.stringContaining(dir.join("source")),
  });

  expect(mountsBelow(dir.path)).toEqual([shared.path]);
  expect(server.mounts()).toEqual([]);
  await removeSharedDir(dir.join("sandbox"), ["c1"]);
  expect(readdirSync(dir.join("sandbox"))).toEqual([]);
});

test("addMount() of a directory that holds the share leaves our own mounts out", async () => {
  await using dir = createTempDir();
  const directory = dir.join("state/ns/sandbox");
  mkdirSync(directory, { recursive: true });
  const shared = await createSharedDir(directory);
  await using server = await serveShare(shared);
  await shared.addRootfs("c1", makeSource(dir, "rootfs"), false);
  try {
    const { path: added } = await shared.addMount("c1", dir.path, options());

    expect(server.mounts().sort()).toEqual([`/${added}`, "/c1/rootfs"]);
    expect(readFileSync(`${server.root}/${added}/rootfs/precious`, "utf8")).toBe("host data");
  } finally {
    await removeSharedDir(directory, ["c1"]);
  }
  expect(readFileSync(dir.join("rootfs/precious"), "utf8")).toBe("host data");
});

test("addMount() refuses what lies in the sandbox's own state", async () => {
  await using dir = createTempDir();
  const directory = dir.join("state/ns/sandbox");
  mkdirSync(directory, { recursive: true });
  const shared = await createSharedDir(directory);
  await using _server = await serveShare(shared);
  try {
    const adding = shared.addMount("c1", `${directory}/share/skeleton`, options());

    await expect(adding).rejects.toMatchObject({ code: "invalid_argument" });
  } finally {
    await removeSharedDir(directory, ["c1"]);
  }
});
