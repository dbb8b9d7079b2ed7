import { mkdirSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type ConfigSource, loadConfig } from "../../../src/config/load.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

let dir: TempDir;
beforeAll(() => {
  dir = createTempDir();
  writeFileSync(dir.join("config.toml"), 'default_memory_mib = 256\nlog_level = "warn"\n');
});
afterAll(() => dir[Symbol.asyncDispose]());

function load(...overrides: ConfigSource[]) {
  const environment = { CAISSON_CONFIG: dir.join("config.toml") };
  return loadConfig({ environment, executableDirectory: "/nowhere", overrides });
}

const text = (toml: string): ConfigSource => ({ tag: "text", name: "inline", text: toml });

test("loadConfig() lets overrides win in their order over the files", () => {
  writeFileSync(dir.join("sandbox.toml"), "default_memory_mib = 128\ndefault_vcpus = 2\n");

  const config = load({ tag: "file", path: dir.join("sandbox.toml") }, text("default_vcpus = 3"));

  expect(config).toMatchObject({ defaultMemoryMiB: 128, defaultVcpus: 3, logLevel: "warn" });
  expect(load()).toMatchObject({ defaultMemoryMiB: 256, defaultVcpus: 1 });
});

test.for([
  ["an unknown key", text("kernel = 1"), /"inline".*"kernel" is not a setting/],
  ["a value out of range", text("default_memory_mib = 1"), /"inline".*default_memory_mib = 1/],
  ["no TOML", text("[[["), /"inline"/],
  ["a setting of the host", text('state_directory = "/x"'), /"state_directory" cannot be set for a single/],
  ["an unknown annotation", text('allowed_annotations = ["io.caisson.x"]'), /"io\.caisson\.memory_mib"/],
  ["a relative path", { tag: "file", path: "a.toml" }, /absolute path/],
  ["a path with NUL", { tag: "file", path: "/a\0" }, /absolute path/],
  ["a device", { tag: "file", path: "/dev/zero" }, /regular file/],
] as const)("loadConfig() refuses an override with %s", ([, source, message]) => {
  expect(() => load(source as ConfigSource)).toThrowError(
    expect.objectContaining({
      code: "invalid_argument",
      message: expect.stringMatching(message) as string,
    }) as Error,
  );
});

test("loadConfig() refuses an override that is a directory, too large, or not there", () => {
  mkdirSync(dir.join("directory"));
  writeFileSync(dir.join("large.toml"), `#${" ".repeat(1024 * 1024)}\n`);

  for (const name of ["directory", "large.toml"])
    expect(() => load({ tag: "file", path: dir.join(name) })).toThrowError(/regular file/);
  expect(() => load({ tag: "file", path: dir.join("none") })).toThrowError(/no such file/);
});
