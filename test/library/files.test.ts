import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { extract, pack } from "tar-stream";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Sandbox } from "../../src/index.ts";
import { createLibrary, type Library } from "../support/library.ts";

let library: Library;
let sandbox: Sandbox;
beforeAll(async () => {
  library = await createLibrary();
  sandbox = await library.create({ user: "1000:1000" });
});
afterAll(async () => {
  await sandbox.close();
  await library[Symbol.asyncDispose]();
});

const root = (script: string) => sandbox.run("sh", ["-c", script], { user: "0" });
const megabytes = (count: number) => Buffer.alloc(count * 1024 ** 2, "0123456789abcdef");

test("writeFile and readFile: text and bytes, with owner, mode and missing directories", async () => {
  const bytes = Buffer.from([0, 255, 10, 13, 128]);
  await sandbox.writeFile("/work/deep/text", "hällo\n", { mode: 0o640 });
  await sandbox.writeFile("/work/bytes", bytes, { user: "0" });

  expect(await sandbox.readFile("/work/deep/text", { encoding: "utf8" })).toBe("hällo\n");
  expect(await sandbox.readFile("/work/bytes")).toEqual(bytes);
  expect((await root("stat -c '%u:%g %a %n' /work /work/deep/text /work/bytes")).stdout).toBe(
    "1000:1000 755 /work\n1000:1000 640 /work/deep/text\n0:0 644 /work/bytes\n",
  );
});

test("writeFile leaves owner and mode of a file that is there, and follows links within the sandbox", async () => {
  await root("echo long content >/etc/there; chmod 600 /etc/there; ln -s /etc/there /link");
  await sandbox.writeFile("/link", "new");

  expect((await root("cat /etc/there; stat -c ' %u %a' /etc/there")).stdout).toBe("new 0 600\n");
});

test.for([
  { what: "a missing file", path: "/no/such", code: "not_found" },
  { what: "a directory", path: "/etc", code: "invalid_argument" },
  { what: "a device", path: "/dev/zero", code: "invalid_argument" },
  { what: "a relative path", path: "etc/passwd", code: "invalid_argument" },
  { what: "a link to the outside of its root", path: "/proc/1/root/etc/passwd", code: "invalid_argument" },
])("readFile refuses $what", async ({ path, code }) => {
  await expect(sandbox.readFile(path)).rejects.toMatchObject({ code });
});

test("readFile refuses what is larger than maxBytes", async () => {
  await root("head -c 1001 /dev/zero >/big");

  await expect(sandbox.readFile("/big", { maxBytes: 1000 })).rejects.toMatchObject({
    code: "resource_exhausted",
  });
  expect(await sandbox.readFile("/big", { maxBytes: 1001 })).toHaveLength(1001);
});

test("a link to / stays in the sandbox", async () => {
  await root("ln -s / /tmp/top; ln -s ../../../../../../etc /tmp/up");

  expect(await sandbox.readFile("/tmp/top/etc/passwd")).toEqual(await sandbox.readFile("/tmp/up/passwd"));
});

test("copyIn and copyOut bring a tree there and back", async () => {
  const source = library.dir.join("tree");
  mkdirSync(`${source}/empty`, { recursive: true });
  mkdirSync(`${source}/${"d".repeat(200)}/e`, { recursive: true });
  const longPath = `${"d".repeat(200)}/e/${"f".repeat(100)}`;
  writeFileSync(`${source}/${longPath}`, "long");
  writeFileSync(`${source}/tool`, megabytes(3), { mode: 0o755 });
  writeFileSync(`${source}/nothing`, "");
  symlinkSync("tool", `${source}/link`);

  await sandbox.copyIn(source, "/copied/tree");
  expect(
    (await root("cd /copied/tree && find . | wc -l && stat -c '%u %a' tool && readlink link")).stdout,
  ).toBe("8\n1000 755\ntool\n");
  const back = library.dir.join("back");
  await sandbox.copyOut("/copied/tree", back);

  expect(readdirSync(back).sort()).toEqual(readdirSync(source).sort());
  expect(readFileSync(`${back}/tool`).equals(megabytes(3))).toBe(true);
  expect(lstatSync(`${back}/tool`).mode & 0o777).toBe(0o755);
  expect(readFileSync(`${back}/${longPath}`, "utf8")).toBe("long");
  expect(readlinkSync(`${back}/link`)).toBe("tool");
});

test("copyOut of more than the streams between hold, file by file", async () => {
  const count = 1000;
  await root(`mkdir /parts && cd /parts && for i in $(seq ${count}); do echo "part $i" >$i; done`);
  const target = library.dir.join("parts");
  await sandbox.copyOut("/parts", target);

  expect(readdirSync(target)).toHaveLength(count);
  expect(readFileSync(`${target}/${count}`, "utf8")).toBe(`part ${count}\n`);
});

test("copyIn and copyOut of one file", async () => {
  const file = library.dir.join("file");
  writeFileSync(file, "one", { mode: 0o755 });
  await sandbox.copyIn(file, "/one/file");
  await sandbox.copyOut("/one/file", library.dir.join("file-back"));

  expect(readFileSync(library.dir.join("file-back"), "utf8")).toBe("one");
  expect(lstatSync(library.dir.join("file-back")).mode & 0o777).toBe(0o755);
});

test("copyOut refuses links to the outside, whole trees of the guest's making included", async () => {
  await root("mkdir -p /evil && ln -s /etc/passwd /evil/link && echo x >/evil/file");
  const target = library.dir.join("evil");

  await expect(sandbox.copyOut("/evil", target)).rejects.toMatchObject({ code: "invalid_argument" });
  await sandbox.copyOut("/evil", target, { unsafeLinks: "skip" });
  expect(readdirSync(target)).toEqual(["file"]);
});

test("copyOut stops at maxBytes, also for a file without an end", async () => {
  await root("mkdir -p /much && head -c 3000000 /dev/zero >/much/file");
  const target = library.dir.join("much");
  const failed = sandbox.copyOut("/much", target, { maxBytes: 1_000_000 });

  await expect(failed).rejects.toMatchObject({ code: "resource_exhausted" });
  await expect(sandbox.copyOut("/no/such", target)).rejects.toMatchObject({ code: "not_found" });
});

test("copyInTar takes a tar stream, and refuses one that reaches out of the directory", async () => {
  const good = pack();
  good.entry({ name: "a/file" }, "content");
  good.finalize();
  await sandbox.copyInTar(Readable.from(good), "/unpacked");
  expect(await sandbox.readFile("/unpacked/a/file", { encoding: "utf8" })).toBe("content");

  const hostile = pack();
  hostile.entry({ name: "etc", type: "symlink", linkname: "/etc" });
  hostile.entry({ name: "etc/planted" }, "x");
  hostile.finalize();
  await expect(sandbox.copyInTar(Readable.from(hostile), "/unpacked")).rejects.toMatchObject({
    code: "invalid_argument",
  });
  await expect(sandbox.readFile("/etc/planted")).rejects.toMatchObject({ code: "not_found" });
});

test("a tar stream that breaks off fails the copy", async () => {
  const broken = Readable.from(
    (async function* () {
      yield Buffer.alloc(512);
      throw new Error("the disk is gone");
    })(),
  );

  await expect(sandbox.copyInTar(broken, "/broken")).rejects.toMatchObject({ code: "canceled" });
});

test("copyOutTar gives a tar stream, or its failure", async () => {
  await root("mkdir -p /out && echo content >/out/file");
  const names: string[] = [];
  const parser = sandbox.copyOutTar("/out").pipe(extract() as unknown as NodeJS.WritableStream);
  for await (const entry of parser as unknown as ReturnType<typeof extract>) {
    names.push(entry.header.name);
    entry.resume();
  }

  expect(names).toEqual(["./", "file"]);
  await expect(buffer(sandbox.copyOutTar("/no/such"))).rejects.toMatchObject({ code: "not_found" });
});

test("files can be reached while the sandbox is paused", async () => {
  await sandbox.pause();
  await sandbox.writeFile("/tmp/paused", "yes");
  expect(await sandbox.readFile("/tmp/paused", { encoding: "utf8" })).toBe("yes");
  await sandbox.resume();
});

test("a mount is part of the sandbox's files", async () => {
  const shared = library.dir.join("shared");
  mkdirSync(shared);
  writeFileSync(`${shared}/file`, "of the host");
  await using other = await library.create({ mounts: [{ source: shared, target: "/mnt", readOnly: true }] });

  expect(await other.readFile("/mnt/file", { encoding: "utf8" })).toBe("of the host");
  await expect(other.writeFile("/mnt/new", "x")).rejects.toMatchObject({ code: "permission_denied" });
});
