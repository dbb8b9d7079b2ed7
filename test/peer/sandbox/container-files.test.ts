import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { bindSources } from "../../../src/agent-client/guest-mounts.ts";
import type { Spec } from "../../../src/oci/spec.ts";
import { addContainerFiles, removeContainerFiles } from "../../../src/sandbox/container-files.ts";
import { Journal, readJournal } from "../../../src/sandbox/journal.ts";
import type { CreateContainerRequest, Mount } from "../../../src/sandbox/model.ts";
import { createSharedDir, removeSharedDir } from "../../../src/storage/shared-dir.ts";
import { serveShare } from "../../support/share-server.ts";
import { createTempDir, mountsBelow, type TempDir } from "../../support/temp-dir.ts";

/** A sandbox's directory, and a bundle with an empty `rootfs`. */
async function setUp(dir: TempDir) {
  for (const name of ["sandbox", "bundle", "bundle/rootfs", "image"]) mkdirSync(dir.join(name));
  writeFileSync(dir.join("image", "file"), "of the image");
  const shared = await createSharedDir(dir.join("sandbox"));
  const server = await serveShare(shared);
  const journal = new Journal(dir.join("sandbox"));
  const request = (rootfs: readonly Mount[]): CreateContainerRequest => ({
    containerId: "c1",
    bundle: dir.join("bundle"),
    rootfs,
    stdio: { stdin: "", stdout: "", stderr: "", terminal: false },
    noPivotRoot: false,
  });
  return {
    shared,
    server,
    journal,
    request,
    async [Symbol.asyncDispose]() {
      journal[Symbol.dispose]();
      await server[Symbol.asyncDispose]();
      await removeSharedDir(dir.join("sandbox"), ["c1"]);
    },
  };
}

const spec = (sections: object = {}) =>
  ({ ociVersion: "1.0.2", root: { path: "rootfs" }, ...sections }) as unknown as Spec;
/** Adds the files of a container with all its binds. */
const addFiles = (
  sandbox: Parameters<typeof addContainerFiles>[2],
  request: CreateContainerRequest,
  wanted: Spec,
) => addContainerFiles(request, { spec: wanted, binds: bindSources(wanted, new Map()) }, sandbox);
const bind = (source: string, target = ""): Mount => ({
  type: "bind",
  source,
  target,
  options: ["rbind", "rw"],
});

test("what containerd asks for is mounted at the bundle's rootfs, journalled first, and unmounted again", async () => {
  await using dir = createTempDir();
  await using sandbox = await setUp(dir);
  const request = sandbox.request([bind(dir.join("image"))]);

  await addFiles(sandbox, request, spec());

  expect(readFileSync(dir.join("bundle", "rootfs", "file"), "utf8")).toBe("of the image");
  expect(readFileSync(`${sandbox.server.root}/c1/rootfs/file`, "utf8")).toBe("of the image");
  expect(readJournal(dir.join("sandbox"))).toEqual([
    { kind: "container", containerId: "c1" },
    { kind: "rootfs", path: dir.join("bundle", "rootfs") },
  ]);

  await removeContainerFiles(request, sandbox.shared);
  await removeContainerFiles(request, sandbox.shared);
  expect(mountsBelow(dir.path)).toEqual([sandbox.shared.path]);
  expect(readdirSync(dir.join("image"))).toEqual(["file"]);
});

test("a root file system that the caller mounted itself stays mounted", async () => {
  await using dir = createTempDir();
  await using sandbox = await setUp(dir);
  execFileSync("mount", ["--bind", dir.join("image"), dir.join("bundle", "rootfs")]);
  const request = sandbox.request([]);

  await addFiles(sandbox, request, spec());
  expect(readFileSync(`${sandbox.server.root}/c1/rootfs/file`, "utf8")).toBe("of the image");
  await removeContainerFiles(request, sandbox.shared);

  expect(mountsBelow(dir.path)).toContain(dir.join("bundle", "rootfs"));
});

test("binds with relative sources are of the bundle, and read-only by their options", async () => {
  await using dir = createTempDir();
  await using sandbox = await setUp(dir);
  writeFileSync(dir.join("bundle", "hosts"), "127.0.0.1 x");
  const request = sandbox.request([bind(dir.join("image"))]);
  const mounts = [{ destination: "/etc/hosts", type: "bind", source: "hosts", options: ["ro"] }];

  await addFiles(sandbox, request, spec({ mounts }));

  const shown = `${sandbox.server.root}/.volumes/0`;
  expect(readFileSync(shown, "utf8")).toBe("127.0.0.1 x");
  expect(() => writeFileSync(shown, "")).toThrow("EROFS");
  await removeContainerFiles(request, sandbox.shared);
});

test("a root.readonly root file system that the caller brings cannot be written through the share", async () => {
  await using dir = createTempDir();
  await using sandbox = await setUp(dir);
  const request = sandbox.request([]);
  const path = dir.join("image");

  await addFiles(sandbox, request, spec({ root: { path, readonly: true } }));

  expect(() => writeFileSync(`${sandbox.server.root}/c1/rootfs/new`, "")).toThrow("EROFS");
  await removeContainerFiles(request, sandbox.shared);
});

test("in a layer of its own a root.readonly container gets its mount points: the guest makes it read-only", async () => {
  await using dir = createTempDir();
  await using sandbox = await setUp(dir);
  const request = sandbox.request([bind(dir.join("image"))]);

  await addFiles(sandbox, request, spec({ root: { path: "rootfs", readonly: true } }));

  mkdirSync(`${sandbox.server.root}/c1/rootfs/proc`);
  await removeContainerFiles(request, sandbox.shared);
});

test("an empty root file system is failed_precondition, a missing one not_found", async () => {
  await using dir = createTempDir();
  await using sandbox = await setUp(dir);
  const add = (path: string) => addFiles(sandbox, sandbox.request([]), spec({ root: { path } }));

  await expect(add("rootfs")).rejects.toMatchObject({ code: "failed_precondition" });
  await expect(add("none")).rejects.toMatchObject({ code: "not_found" });

  await removeContainerFiles(sandbox.request([]), sandbox.shared);
  expect(mountsBelow(dir.path)).toEqual([sandbox.shared.path]);
});

test("a second mount has its place in the first one", async () => {
  await using dir = createTempDir();
  await using sandbox = await setUp(dir);
  mkdirSync(dir.join("image", "var", "lib"), { recursive: true });
  mkdirSync(dir.join("volume"));
  writeFileSync(dir.join("volume", "inner"), "");
  const request = sandbox.request([bind(dir.join("image")), bind(dir.join("volume"), "var/lib")]);

  await addFiles(sandbox, request, spec());

  expect(readdirSync(`${sandbox.server.root}/c1/rootfs/var/lib`)).toEqual(["inner"]);
  await removeContainerFiles(request, sandbox.shared);
  expect(mountsBelow(dir.path)).toEqual([sandbox.shared.path]);
});

test.each(["../victim", "link", "link/below", "..", "none"])(
  "a second mount at %j never leaves the root file system",
  async (target) => {
    await using dir = createTempDir();
    await using sandbox = await setUp(dir);
    mkdirSync(dir.join("bundle", "victim", "below"), { recursive: true });
    symlinkSync(dir.join("bundle", "victim"), dir.join("image", "link"));
    const request = sandbox.request([bind(dir.join("image")), bind(dir.join("image"), target)]);

    await expect(addFiles(sandbox, request, spec())).rejects.toMatchObject({
      code: "invalid_argument",
    });

    expect(mountsBelow(dir.join("bundle", "victim"))).toEqual([]);
    await removeContainerFiles(request, sandbox.shared);
    expect(mountsBelow(dir.path)).toEqual([sandbox.shared.path]);
  },
);
