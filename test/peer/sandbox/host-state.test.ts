import { existsSync, readdirSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { loadConfig } from "../../../src/config/load.ts";
import { createHostState } from "../../../src/sandbox/host-state.ts";
import { removeSandbox } from "../../../src/sandbox/remove.ts";
import { run } from "../../support/cli-run.ts";
import { serveShare } from "../../support/share-server.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

let dir: TempDir;
beforeEach(() => {
  dir = createTempDir();
});
afterEach(() => dir[Symbol.asyncDispose]());

const configIn = (stateDirectory: string) => ({
  ...loadConfig({ environment: {}, executableDirectory: dir.path }),
  stateDirectory,
});

async function makeAndRemove(stateDirectory: string, sandboxId: string): Promise<void> {
  const host = await createHostState("ns", sandboxId, configIn(stateDirectory));
  host.journal[Symbol.dispose]();
  await removeSandbox({ stateDirectory, namespace: "ns", sandboxId });
}

test("sandboxes of one namespace come and go at the same time, its directory with the last one", async () => {
  const rounds = async (sandboxId: string) => {
    for (let round = 0; round < 40; round++) await makeAndRemove(dir.join("state"), sandboxId);
  };
  await Promise.all(["a", "b", "c"].map(rounds));

  expect(existsSync(dir.join("state/ns"))).toBe(false);
});

test.for([2, 3, 4, 5, 6, 7, 8])("with %i inodes: all is made or nothing is left", async (inodes) => {
  const path = dir.join("small");
  await mkdir(path);
  const options = `mode=755,nr_inodes=${inodes}`;
  expect(await run(["mount", "-t", "tmpfs", "-o", options, "caisson-test", path])).toMatchObject({
    exitCode: 0,
  });
  await makeAndRemove(path, "small").catch((error: unknown) => {
    expect(error).toMatchObject({ code: "resource_exhausted" });
  });

  expect(readdirSync(path).filter((name) => !name.startsWith("."))).toEqual([]);
});

test("what could not be removed is found again: a second attempt goes by the journal", async () => {
  const stateDirectory = dir.join("state");
  const host = await createHostState("ns", "twice", configIn(stateDirectory));
  host.journal.add({ kind: "container", containerId: "c" });
  await mkdir(dir.join("rootfs"));
  await mkdir(dir.join("rootfs/bin"));
  const server = await serveShare(host.shared);
  await host.shared.addRootfs("c", dir.join("rootfs"), false);
  await server[Symbol.asyncDispose]();
  host.journal[Symbol.dispose]();
  // Somebody has mounted something on a directory of ours, by another path.
  await mkdir(dir.join("elsewhere"));
  const bind = ["mount", "--rbind", "--make-rprivate", stateDirectory, dir.join("elsewhere")];
  expect(await run(bind)).toMatchObject({ exitCode: 0 });
  const stranger = dir.join("elsewhere/ns/twice/share/skeleton/c/rootfs");
  expect(await run(["mount", "--bind", dir.join("rootfs"), stranger])).toMatchObject({ exitCode: 0 });
  const name = { stateDirectory, namespace: "ns", sandboxId: "twice" };

  await expect(removeSandbox(name)).rejects.toThrow();
  await run(["umount", "--recursive", "--lazy", dir.join("elsewhere")]);
  await removeSandbox(name);

  expect(readdirSync(stateDirectory).filter((entry) => !entry.startsWith("."))).toEqual([]);
});
