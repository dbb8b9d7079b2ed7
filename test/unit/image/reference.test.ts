import { describe, expect, test } from "vitest";
import { emptyImageConfig, parseImageConfig } from "../../../src/image/config.ts";
import { chooseEntry, type LayoutEntry } from "../../../src/image/layout.ts";
import { parseImageReference, skopeoSource } from "../../../src/image/reference.ts";

const digest = "a".repeat(64);

test("references", () => {
  const table = {
    "oci:/a/b": { transport: "oci", directory: "/a/b", tag: undefined },
    "oci:/a/b:v1.2": { transport: "oci", directory: "/a/b", tag: "v1.2" },
    "oci-archive:/a.tar": { transport: "oci-archive", file: "/a.tar" },
    "docker-archive:/a.tar": { transport: "docker-archive", file: "/a.tar" },
    "rootfs:/a": { transport: "rootfs", directory: "/a" },
    busybox: { transport: "docker", name: "busybox" },
    "busybox:1.36": { transport: "docker", name: "busybox:1.36" },
    "docker://quay.io/a/b_c-d:x": { transport: "docker", name: "quay.io/a/b_c-d:x" },
    "localhost:5000/a": { transport: "docker", name: "localhost:5000/a" },
    [`a/b@sha256:${digest}`]: { transport: "docker", name: `a/b@sha256:${digest}` },
    // Looks like a transport, is a name and a tag.
    "oci-archive2:x": { transport: "docker", name: "oci-archive2:x" },
  };
  expect(Object.fromEntries(Object.keys(table).map((text) => [text, parseImageReference(text)]))).toEqual(
    table,
  );
});

test("relative paths are those of the working directory", () => {
  expect(parseImageReference("rootfs:x")).toEqual({ transport: "rootfs", directory: `${process.cwd()}/x` });
  expect(parseImageReference("oci:x:t")).toEqual({
    transport: "oci",
    directory: `${process.cwd()}/x`,
    tag: "t",
  });
});

test.each([
  "",
  "oci:",
  "oci::tag",
  "oci:/a:",
  "oci:/a:b:c",
  "oci:/a:t/x",
  "oci-archive:",
  "oci-archive:/a:b",
  "rootfs:",

  "UPPER",
  "-rf",
  "--help",
  "a//b",
  "../x",
  "/abs",
  "a b",
  "a\nb",
  "a:tag:tag",
  "a@sha256:abc",
  "dir:/x",
  "a/",
  "docker://",
  "docker://-x",
  "x".repeat(500),
  "oci:/a\0b",
  "\u001b[2J",
])("refused: %j", (text) => {
  expect(() => parseImageReference(text)).toThrow("Cannot use image ");
});

test("skopeo's words", () => {
  const table: Record<string, string> = {
    "oci:/a:t": "oci:/a:t",
    "oci:/a": "oci:/a",
    "oci-archive:/a.tar": "oci-archive:/a.tar",
    busybox: "docker://busybox",
  };
  const translate = (text: string) => {
    const reference = parseImageReference(text);
    return reference.transport === "rootfs" ? "" : skopeoSource(reference);
  };
  expect(Object.fromEntries(Object.keys(table).map((text) => [text, translate(text)]))).toEqual(table);
});

describe("layout entries", () => {
  const entry = (tag: string | undefined): LayoutEntry => ({ tag, digest, isManifest: true });

  test("by tag, the only one, or latest", () => {
    expect(chooseEntry([entry("a"), entry("b")], "b", "x").tag).toBe("b");
    expect(chooseEntry([entry("a")], undefined, "x").tag).toBe("a");
    expect(chooseEntry([entry(undefined)], undefined, "x").tag).toBeUndefined();
    expect(chooseEntry([entry("a"), entry("latest")], undefined, "x").tag).toBe("latest");
  });

  test("a missing one is named beside those that are there", () => {
    expect(() => chooseEntry([entry("a"), entry("b")], "c", "oci:/x:c")).toThrow(
      'Cannot use image "oci:/x:c": no image is tagged "c", the tags are "a", "b"',
    );
    expect(() => chooseEntry([], undefined, "oci:/x")).toThrow('no image is tagged "latest", none has a tag');
  });
});

describe("image configuration", () => {
  const base = { os: "linux", architecture: process.arch === "x64" ? "amd64" : process.arch };
  const parse = (document: unknown) => parseImageConfig(JSON.stringify(document), "x");

  test("everything and nothing", () => {
    const config = {
      Env: ["A=b", "=c", "D", "E="],
      Entrypoint: ["/e"],
      Cmd: ["c"],
      WorkingDir: "/w",
      User: "u:g",
      StopSignal: "SIGINT",
    };
    expect(parse({ ...base, config })).toEqual({
      env: ["A=b", "E="],
      entrypoint: ["/e"],
      command: ["c"],
      workingDirectory: "/w",
      user: "u:g",
      stopSignal: "SIGINT",
    });
    expect(parse(base)).toEqual(emptyImageConfig);
    expect(parse({ ...base, config: { Env: null, Cmd: null } })).toEqual(emptyImageConfig);
  });

  test("hostile or of another machine", () => {
    expect(() => parse({ ...base, os: "windows" })).toThrow(
      'it is for the system "windows", expected "linux"',
    );
    expect(() => parse({ ...base, architecture: "s390x" })).toThrow('it is for the architecture "s390x"');
    expect(() => parse({ ...base, config: { Cmd: "sh" } })).toThrow("config.Cmd is not a list of strings");
    expect(() => parse({ ...base, config: { Env: ["A=\0"] } })).toThrow(
      "config.Env is not a list of strings",
    );
    expect(() => parse({ ...base, config: { User: 0 } })).toThrow("config.User is not a string");
    for (const text of ["", "[]", "null", "{", `{"__proto__":{"os":"linux"}}`]) {
      expect(() => parseImageConfig(text, "x"), text).toThrow('Cannot use image "x": ');
    }
  });
});
