/**
 * The shim's executable with a sandbox that has no VM, run by Node as it is:
 *
 *     node test/support/fake-shim.ts -namespace … -id … start
 *
 * `FAKE_SHIM_STATE` is the state directory. Product code knows nothing of it.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadConfig } from "../../src/config/load.ts";
import { runCommand } from "../../src/shim/command.ts";
import { unmountAllBelow } from "../../src/storage/mount.ts";
import { createFakeSandbox } from "./fake-sandbox.ts";

const stateDirectory = process.env["FAKE_SHIM_STATE"] ?? "";
if (stateDirectory === "") throw new Error("FAKE_SHIM_STATE is not set");

await runCommand(process.argv.slice(2), {
  script: fileURLToPath(import.meta.url),
  loadConfig: (overrides = []) =>
    Promise.resolve({
      ...loadConfig({ environment: {}, executableDirectory: "/nowhere", overrides }),
      stateDirectory,
    }),
  createSandbox: async ({ namespace, sandboxId, emit }) => {
    await mkdir(join(stateDirectory, namespace, sandboxId), { recursive: true });
    return createFakeSandbox({ sandboxId, emit });
  },
  removeSandbox: ({ namespace, sandboxId }) =>
    rm(join(stateDirectory, namespace, sandboxId), { recursive: true, force: true }),
  unmountAllBelow: (directory) => Promise.resolve(unmountAllBelow(directory)),
});
