import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { mount, unmount, unmountAllBelow } from "../../../src/storage/mount.ts";
import { createTempDir, mountsBelow } from "../../support/temp-dir.ts";

test("mount() gives a file system its options, without those that only containerd reads", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("target"));

  await mount("tmpfs", "tmpfs", dir.join("target"), ["size=64k", "ro", "X-containerd.mkfs.fs=ext4"]);

  expect(() => writeFileSync(dir.join("target", "file"), "")).toThrow("EROFS");
  unmount(dir.join("target"));
  unmount(dir.join("target"));
  expect(mountsBelow(dir.path)).toEqual([]);
});

test("mount() of an overlay whose source looks like an option", async () => {
  await using dir = createTempDir();
  for (const name of ["-lower", "lower", "target"]) mkdirSync(dir.join(name));
  writeFileSync(dir.join("-lower", "file"), "layer");

  await mount("overlay", "--help", dir.join("target"), [
    `lowerdir=${dir.join("-lower")}:${dir.join("lower")}`,
  ]);

  expect(readFileSync(dir.join("target", "file"), "utf8")).toBe("layer");
  unmountAllBelow(dir.join("target"));
});

test("mount() of an overlay whose layers have longer names than a page of options holds", async () => {
  await using dir = createTempDir();
  const layers = Array.from({ length: 35 }, (_, index) =>
    dir.join("layers", `${index}`.padEnd(100, "n"), "fs"),
  );
  for (const [index, layer] of layers.entries()) {
    mkdirSync(layer, { recursive: true });
    writeFileSync(join(layer, `file${index}`), "");
  }
  mkdirSync(dir.join("target"));
  const before = process.cwd();

  await mount("overlay", "overlay", dir.join("target"), ["ro", "index=off", `lowerdir=${layers.join(":")}`]);

  expect(readdirSync(dir.join("target")).length).toBe(35);
  expect(() => writeFileSync(dir.join("target", "file"), "")).toThrow("EROFS");
  expect(process.cwd()).toBe(before);
  unmountAllBelow(dir.join("target"));
});

test("mount() of an overlay that the kernel refuses says what was to be mounted, and leaves nothing", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("target"));
  const attempt = (...options: string[]) => mount("overlay", "overlay", dir.join("target"), options);

  await expect(attempt(`lowerdir=${dir.join("none")}`)).rejects.toMatchObject({
    code: "not_found",
    message: expect.stringContaining(dir.join("none")) as string,
  });
  await expect(attempt("colour=blue", `lowerdir=${dir.path}`)).rejects.toThrow("EINVAL");
  // Cut to a page it would be another mount.
  await expect(attempt(`lowerdir=/${"n".repeat(5000)}:/`)).rejects.toThrow("E2BIG");
  expect(mountsBelow(dir.path)).toEqual([]);
});

test.each(["overlay", "bind"])("mount() of %s with the mapped ids of a snapshotter", async (type) => {
  await using dir = createTempDir();
  for (const name of ["one", "two:", "upper", "work", "target"]) mkdirSync(dir.join(name));
  for (const name of ["one", "two:"]) writeFileSync(dir.join(name, name), "layer");
  const maps = ["uidmap=0:100000:65536", "gidmap=0:200000:1,1:300000:10"];
  const layers = `lowerdir=${dir.join("one")}:${dir.join("two\\:")}`;
  const overlay = [layers, `upperdir=${dir.join("upper")}`, `workdir=${dir.join("work")}`];

  await mount(type, dir.join("one"), dir.join("target"), [
    ...maps,
    ...(type === "overlay" ? overlay : ["rbind"]),
  ]);

  for (const name of type === "overlay" ? ["one", "two:"] : ["one"]) {
    expect(statSync(dir.join("target", name))).toMatchObject({ uid: 100_000, gid: 200_000 });
    expect(statSync(dir.join(name, name))).toMatchObject({ uid: 0, gid: 0 });
  }
  unmountAllBelow(dir.join("target"));
  expect(mountsBelow(dir.path)).toEqual([]);
  expect(readdirSync(dir.join("target"))).toEqual([]);
});

test("mount() refuses mapped ids that it cannot read, and of other file systems", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("target"));
  const attempt = (type: string, ...options: string[]) => mount(type, "x", dir.join("target"), options);

  await expect(attempt("overlay", "uidmap=0:a:1", "gidmap=0:1:1")).rejects.toMatchObject({
    code: "invalid_argument",
  });
  await expect(attempt("bind", "uidmap=0:1:1")).rejects.toMatchObject({ code: "invalid_argument" });
  await expect(attempt("tmpfs", "uidmap=0:1:1", "gidmap=0:1:1")).rejects.toMatchObject({
    code: "unimplemented",
  });
});

test("mount() refuses an option with NUL, and names what mount(8) said of a failure", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("target"));

  await expect(mount("tmpfs", "tmpfs", dir.join("target"), ["a\0b"])).rejects.toMatchObject({
    code: "invalid_argument",
  });
  await expect(mount("ext4", dir.path, dir.join("target"), [])).rejects.toThrow("is not a block device");
});

test("a bind that is not recursive leaves out what is mounted below the source", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("source", "below"), { recursive: true });
  mkdirSync(dir.join("target"));
  execFileSync("mount", ["-t", "tmpfs", "none", dir.join("source", "below")]);
  writeFileSync(dir.join("source", "below", "file"), "");

  await mount("bind", dir.join("source"), dir.join("target"), ["bind", "ro"]);

  expect(readdirSync(dir.join("target", "below"))).toEqual([]);
  expect(() => writeFileSync(dir.join("target", "file"), "")).toThrow("EROFS");
});

test("unmountAllBelow() takes stacked, nested and oddly named mounts, and nothing beside them", async () => {
  await using dir = createTempDir();
  const odd = dir.join("a", 'sp ace\t"new\nline\\040');
  for (const path of [dir.join("a"), dir.join("ab")]) mkdirSync(path);
  for (const target of [dir.join("a"), dir.join("a"), dir.join("ab")]) {
    execFileSync("mount", ["-t", "tmpfs", "none", target]);
  }
  mkdirSync(odd);
  execFileSync("mount", ["-t", "tmpfs", "none", odd]);

  unmountAllBelow(dir.join("a"));
  unmountAllBelow(dir.join("a"));

  expect(mountsBelow(dir.path)).toEqual([dir.join("ab")]);
});

test("unmountAllBelow() goes on when a mount goes away with another one", async () => {
  await using dir = createTempDir();
  // Two views of one shared mount: what is mounted in one is in both, and leaves both together.
  for (const name of ["one", "two"]) mkdirSync(dir.join("views", name), { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "--make-shared", "none", dir.join("views", "one")]);
  execFileSync("mount", ["--bind", dir.join("views", "one"), dir.join("views", "two")]);
  mkdirSync(dir.join("views", "one", "below"));
  execFileSync("mount", ["-t", "tmpfs", "none", dir.join("views", "one", "below")]);

  unmountAllBelow(dir.join("views"));

  expect(mountsBelow(dir.path)).toEqual([]);
});

test("unmountAllBelow() and unmount() find what is named through a symbolic link", async () => {
  await using dir = createTempDir();
  for (const name of ["one", "two"]) {
    mkdirSync(dir.join("real", name), { recursive: true });
    await mount("tmpfs", "none", dir.join("real", name), []);
  }
  symlinkSync(dir.join("real"), dir.join("link"));

  unmount(dir.join("link", "one"));
  unmountAllBelow(dir.join("link", "two"));

  expect(mountsBelow(dir.path)).toEqual([]);
});

test("mount() of a bind whose source is not there is refused", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("target"));

  await expect(mount("bind", dir.join("none"), dir.join("target"), [])).rejects.toMatchObject({
    code: "not_found",
    message: expect.stringContaining(dir.join("none")),
  });
  expect(mountsBelow(dir.path)).toEqual([]);
});
