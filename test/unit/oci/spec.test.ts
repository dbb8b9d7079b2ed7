import { execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { loadSpec } from "../../../src/oci/spec.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const good = {
  ociVersion: "1.1.0",
  process: { args: ["true"], cwd: "/", env: ["PATH=/bin", "EMPTY="], user: { uid: 0, gid: 4_294_967_294 } },
  root: { path: "rootfs", readonly: true },
};

async function load(content: string | Uint8Array) {
  await using dir = createTempDir();
  writeFileSync(dir.join("config.json"), content);
  return await loadSpec(dir.path);
}

/** Of `good`, with these sections in the place of its own. */
const withSections = (sections: object) => load(JSON.stringify({ ...good, ...sections }));
const withProcess = (fields: object) => ({ process: { ...good.process, ...fields } });
const withMount = (fields: object) => ({
  mounts: [{ destination: "/x", type: "tmpfs", source: "x", ...fields }],
});

test("a small and a large configuration are returned as they are, unknown sections and 64-bit integers too", async () => {
  expect(await withSections({})).toEqual(good);

  const text =
    '{"ociVersion":"1.0.2-dev","root":{"path":"/srv/rootfs"},"process":{"args":["a"],"cwd":"/","rlimits":[{"soft":18446744073709551615}]},' +
    '"linux":{"resources":{"memory":{"limit":9223372036854771712}},"seccomp":{"x":[]}},"annotations":{"constructor":"c","__proto__":"p"}}';
  expect(JSON.stringify(await load(text))).toBe(text);
});

test("1000 mounts are accepted", async () => {
  const mounts = Array.from({ length: 1_000 }, (_, index) => ({ destination: `/m${index}`, type: "tmpfs" }));

  expect((await withSections({ mounts })).mounts).toHaveLength(1_000);
});

const sections: { name: string; sections: object; field: string }[] = [
  { name: "no version", sections: { ociVersion: undefined }, field: "ociVersion" },
  { name: "a version 9.9", sections: { ociVersion: "9.9" }, field: "ociVersion" },
  { name: "a version that is a number", sections: { ociVersion: 1 }, field: "ociVersion" },
  { name: "a Windows section", sections: { windows: {} }, field: "windows" },
  { name: "a vm section", sections: { vm: {} }, field: "vm" },
  { name: "no process", sections: { process: null }, field: "process" },
  { name: "no args", sections: withProcess({ args: [] }), field: "process.args" },
  { name: "an empty program", sections: withProcess({ args: [""] }), field: "process.args" },
  { name: "args with NUL", sections: withProcess({ args: ["a", "b\0c"] }), field: "process.args" },
  { name: "args that are text", sections: withProcess({ args: "true" }), field: "process.args" },
  { name: "env without =", sections: withProcess({ env: ["PATH"] }), field: "process.env" },
  { name: "env without a name", sections: withProcess({ env: ["=x"] }), field: "process.env" },
  { name: "env with NUL", sections: withProcess({ env: ["A=b\0c"] }), field: "process.env" },
  { name: "a relative cwd", sections: withProcess({ cwd: "work" }), field: "process.cwd" },
  { name: "no cwd", sections: withProcess({ cwd: undefined }), field: "process.cwd" },
  { name: "uid -1", sections: withProcess({ user: { uid: -1 } }), field: "process.user.uid" },
  { name: "uid 2^32-1", sections: withProcess({ user: { uid: 4_294_967_295 } }), field: "process.user.uid" },
  { name: "uid as text", sections: withProcess({ user: { uid: "0" } }), field: "process.user.uid" },
  { name: "gid 1.5", sections: withProcess({ user: { gid: 1.5 } }), field: "process.user.gid" },
  { name: "a hostname with a newline", sections: { hostname: "a\nb" }, field: "hostname" },
  { name: "a hostname of 65 characters", sections: { hostname: "x".repeat(65) }, field: "hostname" },
  { name: "a hostname that is a number", sections: { hostname: 5 }, field: "hostname" },
  { name: "a relative mount", sections: withMount({ destination: "x" }), field: "mounts[0].destination" },
  { name: "an empty mount", sections: withMount({ destination: "" }), field: "mounts[0].destination" },
  {
    name: "a mount with ..",
    sections: withMount({ destination: "/a/../../b" }),
    field: "mounts[0].destination",
  },
  {
    name: "a mount option that is a number",
    sections: withMount({ options: [1] }),
    field: "mounts[0].options",
  },
  { name: "a mount option with NUL", sections: withMount({ options: ["a\0"] }), field: "mounts[0].options" },
  {
    name: "a bind without a source",
    sections: withMount({ type: "bind", source: "" }),
    field: "mounts[0].source",
  },
  {
    name: "a bind by its option without a source",
    sections: { mounts: [{ destination: "/x", options: ["rbind"] }] },
    field: "mounts[0].source",
  },
  { name: "mounts that are an object", sections: { mounts: {} }, field: "mounts" },
  { name: "a root of /", sections: { root: { path: "/" } }, field: "root.path" },
  { name: "a root of //", sections: { root: { path: "//" } }, field: "root.path" },
  { name: "a root of ../x", sections: { root: { path: "../x" } }, field: "root.path" },
  { name: "a root with NUL", sections: { root: { path: "a\0" } }, field: "root.path" },
  { name: "no root", sections: { root: undefined }, field: "root.path" },
  {
    name: "readonly as text",
    sections: { root: { path: "rootfs", readonly: "true" } },
    field: "root.readonly",
  },
  { name: "annotations that are numbers", sections: { annotations: { a: 1 } }, field: "annotations" },
  { name: "linux that is a list", sections: { linux: [] }, field: "linux" },
  { name: "namespaces that are text", sections: { linux: { namespaces: "pid" } }, field: "linux.namespaces" },
  {
    name: "a namespace without a type",
    sections: { linux: { namespaces: [{}] } },
    field: "linux.namespaces[0]",
  },
  {
    name: "a namespace path that is a number",
    sections: { linux: { namespaces: [{ type: "pid", path: 1 }] } },
    field: "linux.namespaces[0]",
  },
  {
    name: "a device without a path",
    sections: { linux: { devices: [{ type: "c" }] } },
    field: "linux.devices[0]",
  },
  { name: "resources that are a list", sections: { linux: { resources: [] } }, field: "linux.resources" },
  {
    name: "memory that is a number",
    sections: { linux: { resources: { memory: 5 } } },
    field: "linux.resources.memory",
  },
  { name: "cpu of null", sections: { linux: { resources: { cpu: null } } }, field: "linux.resources.cpu" },
  { name: "hooks of an unknown stage", sections: { hooks: { onStart: [] } }, field: "hooks.onStart" },
  { name: "a stage of hooks that is null", sections: { hooks: { poststop: null } }, field: "hooks.poststop" },
  {
    name: "a hook with a relative path",
    sections: { hooks: { poststop: [{ path: "sh" }] } },
    field: "hooks.poststop[0].path",
  },
];

test.each(sections)("$name is refused by its name", async ({ sections: wrong, field }) => {
  await expect(withSections(wrong)).rejects.toMatchObject({
    code: "invalid_argument",
    message: expect.stringContaining(`"${field}" is not`),
  });
});

const documents: { name: string; content: string | Uint8Array; words: string }[] = [
  { name: "null", content: "null", words: '"the document" is not an object' },
  { name: "a list", content: "[]", words: '"the document" is not an object' },
  { name: "a huge integer", content: "18446744073709551616", words: '"the document" is not an object' },
  { name: "truncated JSON", content: '{"ociVersion":', words: "not valid JSON" },
  {
    name: "a duplicate",
    content: '{"root":{"readonly":true,"readonly":false}}',
    words: '"readonly" stands twice',
  },
  { name: "UTF-16", content: Buffer.from("{}", "utf16le"), words: "not valid JSON" },
];

test.each(documents)("a document that is $name is refused", async ({ content, words }) => {
  await expect(load(content)).rejects.toMatchObject({
    code: "invalid_argument",
    message: expect.stringContaining(words),
  });
});

const files: { name: string; make: (dir: TempDir) => void; code: string }[] = [
  { name: "missing", make: () => {}, code: "not_found" },
  { name: "a directory", make: (dir) => mkdirSync(dir.join("config.json")), code: "invalid_argument" },
  {
    name: "a FIFO",
    make: (dir) => execFileSync("mkfifo", [dir.join("config.json")]),
    code: "invalid_argument",
  },
  {
    name: "a link",
    make: (dir) => symlinkSync("/etc/hostname", dir.join("config.json")),
    code: "invalid_argument",
  },
  {
    name: "1 GiB",
    make: (dir) => {
      writeFileSync(dir.join("config.json"), "");
      truncateSync(dir.join("config.json"), 2 ** 30);
    },
    code: "invalid_argument",
  },
];

test.each(files)("a config.json that is $name is $code", async ({ make, code }) => {
  await using dir = createTempDir();
  make(dir);

  await expect(loadSpec(dir.path)).rejects.toMatchObject({
    code,
    message: expect.stringContaining(dir.join("config.json")),
  });
});
