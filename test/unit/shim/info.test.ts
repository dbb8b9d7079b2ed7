import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { containerd } from "../../../src/gen/bootstrap.js";
import { runtimeInfo } from "../../../src/shim/info.ts";
import { version } from "../../../src/shim/version.ts";

test("runtimeInfo() tells name, version and features", () => {
  const info = containerd.types.RuntimeInfo.decode(runtimeInfo());

  expect(info.name).toBe("io.containerd.caisson.v2");
  expect(info.version?.version).toBe(version);
  expect(info.features?.type_url).toBe("types.containerd.io/opencontainers/runtime-spec/1/features/Features");
  const features = JSON.parse(Buffer.from(info.features?.value ?? []).toString()) as {
    mountOptions: string[];
    linux: { namespaces: string[]; mountExtensions: { idmap: { enabled: boolean } } };
  };
  // What containerd's CRI plugin asks for: recursive read-only mounts, and user namespaces of pods.
  expect(features.mountOptions).toContain("rro");
  expect(features.linux.namespaces).toContain("user");
  expect(features.linux.mountExtensions.idmap.enabled).toBe(true);
});

test("version is that of package.json and of the launcher", () => {
  const read = (path: string) => readFileSync(join(import.meta.dirname, "../../..", path), "utf8");

  expect((JSON.parse(read("package.json")) as { version: string }).version).toBe(version);
  expect(/^version = "(.*)"$/m.exec(read("launcher/Cargo.toml"))?.[1]).toBe(version);
});
