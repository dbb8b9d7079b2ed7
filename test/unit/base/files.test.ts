import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { expect, test } from "vitest";
import { readRegularFile, removeDirectory, removeFile, writeFileAtomic } from "../../../src/base/files.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const refused: { name: string; make: (dir: TempDir) => void; code: string }[] = [
  { name: "nothing", make: () => {}, code: "not_found" },
  { name: "a directory", make: (dir) => mkdirSync(dir.join("x")), code: "invalid_argument" },
  {
    name: "a FIFO without a writer",
    make: (dir) => execFileSync("mkfifo", [dir.join("x")]),
    code: "invalid_argument",
  },
  {
    name: "a symbolic link",
    make: (dir) => symlinkSync("/etc/hostname", dir.join("x")),
    code: "invalid_argument",
  },
  {
    name: "a device",
    make: (dir) => execFileSync("mknod", [dir.join("x"), "c", "1", "5"]),
    code: "invalid_argument",
  },
  { name: "a socket", make: (dir) => makeSocket(dir.join("x")), code: "invalid_argument" },
  { name: "1 GiB", make: (dir) => makeSparse(dir.join("x"), 2 ** 30), code: "invalid_argument" },
  { name: "one byte too many", make: (dir) => makeSparse(dir.join("x"), 101), code: "invalid_argument" },
];

function makeSocket(path: string): void {
  createServer().listen(path).unref();
}

function makeSparse(path: string, bytes: number): void {
  writeFileSync(path, "");
  truncateSync(path, bytes);
}

test.each(refused)("readRegularFile() of $name is $code", async ({ make, code }) => {
  await using dir = createTempDir();
  make(dir);

  await expect(readRegularFile(dir.join("x"), 100)).rejects.toMatchObject({
    code,
    message: expect.stringContaining(dir.join("x")),
  });
});

test("readRegularFile() takes a file of just the limit", async () => {
  await using dir = createTempDir();
  writeFileSync(dir.join("x"), "y".repeat(100));

  expect((await readRegularFile(dir.join("x"), 100)).toString()).toBe("y".repeat(100));
});

test("writeFileAtomic() replaces the content, for its owner only, and leaves nothing else", async () => {
  await using dir = createTempDir();

  await writeFileAtomic(dir.join("x"), "old");
  await writeFileAtomic(dir.join("x"), "new");

  expect(readFileSync(dir.join("x"), "utf8")).toBe("new");
  expect(statSync(dir.join("x")).mode & 0o777).toBe(0o600);
  expect(readdirSync(dir.path)).toEqual(["x"]);
});

test("writeFileAtomic() that fails names the file and leaves nothing", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("x"));

  await expect(writeFileAtomic(dir.join("x"), "new")).rejects.toThrow(`Cannot write "${dir.join("x")}"`);
  await expect(writeFileAtomic(dir.join("none", "x"), "")).rejects.toMatchObject({ code: "not_found" });

  expect(readdirSync(dir.path)).toEqual(["x"]);
});

test("removeFile() and removeDirectory() take what is gone for done, and never what is not empty", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("d"));
  writeFileSync(dir.join("d", "f"), "");

  await expect(removeDirectory(dir.join("d"))).rejects.toMatchObject({ code: "ENOTEMPTY" });
  await removeFile(dir.join("d", "f"));
  await removeFile(dir.join("d", "f"));
  await removeDirectory(dir.join("d"));
  await removeDirectory(dir.join("d"));

  expect(readdirSync(dir.path)).toEqual([]);
});
