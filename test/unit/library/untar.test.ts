import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { PassThrough, Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { setImmediate } from "node:timers/promises";
import { type Header, pack } from "tar-stream";
import { expect, test } from "vitest";
import { type CopyOutLimits, isSafeLink, untar } from "../../../src/library/untar.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

type Item = Partial<Header> & { readonly name: string; readonly content?: string };

const top: Item = { name: "./", type: "directory" };
const limits: CopyOutLimits = { maxBytes: 1000, maxEntries: 20, unsafeLinks: "refuse" };

function archive(items: readonly Item[]): Readable {
  const packer = pack();
  for (const { content, ...header } of items) {
    if (content === undefined) packer.entry(header);
    else packer.entry(header, content);
  }
  packer.finalize();
  return Readable.from(packer, { objectMode: false });
}

/** A directory to copy to, beside one that nothing may reach. */
function makeTarget(dir: TempDir): string {
  mkdirSync(dir.join("outside"));
  return dir.join("target");
}

test("untar makes files, directories and links, without set-user-id bits", async () => {
  await using dir = createTempDir();
  const target = makeTarget(dir);

  await untar(
    archive([
      top,
      { name: "a/", type: "directory", mode: 0o700 },
      { name: "a/tool", mode: 0o4755, content: "content" },
      { name: "a/link", type: "symlink", linkname: "../b/c/../file".replace("c/../", "") },
      { name: "b/file", content: "of a directory without an entry" },
    ]),
    target,
    limits,
  );

  expect(lstatSync(`${target}/a/tool`).mode & 0o7777).toBe(0o755);
  expect(readFileSync(`${target}/a/link`, "utf8")).toBe("of a directory without an entry");
});

test("untar puts a single file at the path itself", async () => {
  await using dir = createTempDir();
  const target = makeTarget(dir);

  await untar(archive([{ name: "report", content: "one" }]), target, limits);
  await untar(archive([{ name: "report", content: "two" }]), target, limits);

  expect(readFileSync(target, "utf8")).toBe("two");
  expect(readdirSync(dir.path).sort()).toEqual(["outside", "target"]);
});

test.for<{ what: string; items: Item[]; code?: string }>([
  { what: '".." in a name', items: [top, { name: "../outside/x", content: "x" }] },
  { what: '".." within a name', items: [top, { name: "a/../../outside/x", content: "x" }] },
  { what: "a link up", items: [top, { name: "up", type: "symlink", linkname: "../outside" }] },
  { what: "an absolute link", items: [top, { name: "passwd", type: "symlink", linkname: "/etc/passwd" }] },
  {
    what: "a link up through a link",
    items: [
      top,
      { name: "d/top", type: "symlink", linkname: ".." },
      { name: "d/up", type: "symlink", linkname: "top/../outside" },
    ],
  },
  {
    what: "a file through a link of the archive",
    items: [top, { name: "l", type: "symlink", linkname: "d" }, { name: "l/x", content: "x" }],
  },
  { what: "a file through a link that was there", items: [top, { name: "existing/x", content: "x" }] },
  { what: "a hard link", items: [top, { name: "h", type: "link", linkname: "existing/secret" }] },
  { what: "a device", items: [top, { name: "null", type: "character-device", devmajor: 1, devminor: 3 }] },
  {
    what: "a second file behind a single one",
    items: [
      { name: "a", content: "a" },
      { name: "b", content: "b" },
    ],
  },
  {
    what: "too many bytes",
    items: [top, { name: "big", content: "x".repeat(1001) }],
    code: "resource_exhausted",
  },
  {
    what: "too many entries",
    items: [top, ...Array.from({ length: 20 }, (_, index) => ({ name: `f${index}`, content: "" }))],
    code: "resource_exhausted",
  },
])("untar refuses $what, and nothing outside is touched", async ({ items, code = "invalid_argument" }) => {
  await using dir = createTempDir();
  const target = makeTarget(dir);
  writeFileSync(dir.join("outside/secret"), "secret");
  const isDirectory = items[0] === top;
  if (isDirectory) {
    mkdirSync(target);
    symlinkSync("../outside", `${target}/existing`);
  }

  await expect(untar(archive(items), target, limits)).rejects.toMatchObject({ code });

  expect(readdirSync(dir.join("outside"))).toEqual(["secret"]);
  expect(lstatSync(dir.join("outside/secret")).nlink).toBe(1);
});

test("untar replaces a link that was there, and does not write through it", async () => {
  await using dir = createTempDir();
  const target = makeTarget(dir);
  writeFileSync(dir.join("outside/secret"), "secret");
  mkdirSync(target);
  symlinkSync("../outside/secret", `${target}/file`);

  await untar(archive([top, { name: "file", content: "new" }]), target, limits);

  expect(readFileSync(`${target}/file`, "utf8")).toBe("new");
  expect(readFileSync(dir.join("outside/secret"), "utf8")).toBe("secret");
});

test('untar leaves unsafe links out with unsafeLinks "skip"', async () => {
  await using dir = createTempDir();
  const target = makeTarget(dir);
  const items: Item[] = [
    top,
    { name: "bad", type: "symlink", linkname: "/etc/passwd" },
    { name: "good", type: "symlink", linkname: "file" },
    { name: "file", content: "x" },
  ];

  await untar(archive(items), target, { ...limits, unsafeLinks: "skip" });

  expect(readdirSync(target).sort()).toEqual(["file", "good"]);
  expect(readlinkSync(`${target}/good`)).toBe("file");
});

test("untar refuses what breaks off or is no archive", async () => {
  await using dir = createTempDir();
  const target = makeTarget(dir);
  const whole = Buffer.concat(
    (await archive([top, { name: "file", content: "x".repeat(600) }]).toArray()) as Buffer[],
  );

  for (const bytes of [whole.subarray(0, 1300), Buffer.alloc(2000, "no archive")]) {
    const broken = untar(Readable.from([bytes], { objectMode: false }), target, limits);
    await expect(broken).rejects.toMatchObject({ code: "invalid_argument" });
  }
});

test.for([
  { parts: ["a"], target: "b", safe: true },
  { parts: ["a", "b"], target: "../c/d", safe: true },
  { parts: ["a", "b"], target: "..", safe: true },
  { parts: ["a"], target: "..", safe: false },
  { parts: ["a", "b"], target: "../../c", safe: false },
  { parts: ["a", "b"], target: "c/../..", safe: false },
  { parts: ["a", "b"], target: "../c/../d", safe: false },
  { parts: ["a"], target: "/etc", safe: false },
  { parts: ["a"], target: "", safe: false },
])("a link at $parts to $target is safe: $safe", ({ parts, target, safe }) => {
  expect(isSafeLink(parts, target)).toBe(safe);
});

test.for([
  { what: "in a file", bytes: 512 + 512 + 100 },
  { what: "between files", bytes: 512 + 512 + 1024 },
  { what: "before its first entry", bytes: 0 },
])("untar fails when its stream closes $what", async ({ bytes }) => {
  await using dir = createTempDir();
  const whole = await buffer(
    archive([top, { name: "a", content: "x".repeat(600) }, { name: "b", content: "y" }]),
  );
  const stream = new PassThrough();
  const failed = untar(stream, makeTarget(dir), limits);
  if (bytes > 0) stream.write(whole.subarray(0, bytes));
  await setImmediate();
  stream.destroy();

  await expect(failed).rejects.toMatchObject({ code: "invalid_argument" });
});

test("untar comes to its end whenever its stream is destroyed, with everything written to it or not", async () => {
  await using dir = createTempDir();
  const items = Array.from({ length: 200 }, (_, index) => ({
    name: String(index),
    content: "x".repeat(600),
  }));
  const whole = await buffer(archive([top, ...items]));
  const generous = { ...limits, maxBytes: 1e6, maxEntries: 1000 };
  const target = makeTarget(dir);

  for (let turns = 0; turns < 150; turns += 2) {
    const stream = new PassThrough();
    const outcome = untar(stream, target, generous).catch((error: unknown) => error);
    for (let offset = 0; offset < whole.length; offset += 32_000)
      stream.write(whole.subarray(offset, offset + 32_000));
    stream.end();
    for (let turn = 0; turn < turns; turn++) await setImmediate();
    stream.destroy();

    const error = await outcome;
    if (error !== undefined) expect(error).toMatchObject({ code: "invalid_argument" });
  }
});
