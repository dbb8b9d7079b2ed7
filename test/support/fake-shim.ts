/**
 * What the shim's launcher runs in Node, with a sandbox that has no VM. The launcher finds it in place of the product's program
 * (`shim-process.ts`); both take the state directory from the configuration.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type ConfigSource, loadConfig } from "../../src/config/load.ts";
import { runCommand } from "../../src/shim/command.ts";
import type { Environment } from "../../src/shim/parts.ts";
import { unmountAllBelow } from "../../src/storage/mount.ts";
import { createFakeSandbox } from "./fake-sandbox.ts";

const load = (overrides: readonly ConfigSource[] = [], environment: Environment = process.env) =>
  loadConfig({ environment, executableDirectory: "/nowhere", overrides });
const { stateDirectory } = load();

await runCommand(process.argv.slice(2), {
  loadConfig: (...args) => Promise.resolve(load(...args)),
  createSandbox: async ({ namespace, sandboxId, emit }) => {
    await mkdir(join(stateDirectory, namespace, sandboxId), { recursive: true });
    return createFakeSandbox({ sandboxId, emit });
  },
  bootReadyVm: () => Promise.reject(new Error("A fake shim has no pool")),
  removeSandbox: ({ namespace, sandboxId }) =>
    rm(join(stateDirectory, namespace, sandboxId), { recursive: true, force: true }),
  unmountAllBelow: (directory) => Promise.resolve(unmountAllBelow(directory)),
});
