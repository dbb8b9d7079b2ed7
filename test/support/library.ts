import { mkdirSync, writeFileSync } from "node:fs";
import { Sandbox, type SandboxOptions } from "../../src/index.ts";
import { requireFiles } from "./cli-build.ts";
import { image, layout } from "./cli.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { withSuiteSettings } from "./suite-settings.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

/** The library with a configuration, state and data of the test's own. */
export interface Library extends AsyncDisposable {
  readonly dir: TempDir;
  /** What the first sandbox took to be made and closed: how slow this machine is now. */
  readonly firstMs: number;
  /** For a program of its own. */
  readonly env: Readonly<Record<string, string>>;
  /** A sandbox of the demo image. */
  create(options?: SandboxOptions): Promise<Sandbox>;
  leakScope(): LeakScope;
}

/** Prepares the directories and makes one sandbox, so that what is kept on purpose (the unpacked image) is there. */
export async function createLibrary(): Promise<Library> {
  requireFiles(layout);
  const dir = createTempDir();
  const [state, data] = [dir.join("run"), dir.join("data")];
  for (const path of [state, data]) mkdirSync(path);
  const config = dir.join("caisson.toml");
  writeFileSync(config, withSuiteSettings(`state_directory = "${state}"\ndata_directory = "${data}"`));
  process.env["CAISSON_CONFIG"] = config;
  const create: Library["create"] = (options) =>
    // The warning of emulated CPUs is nothing that a test shows.
    Sandbox.create({ ...(options?.rootfs ? {} : { image }), onLog: () => {}, ...options });
  const beginMs = performance.now();
  await (await create()).close();
  return {
    dir,
    firstMs: performance.now() - beginMs,
    env: { CAISSON_CONFIG: config },
    create,
    leakScope: () => ({ marks: [dir.token], directories: [state, data] }),
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  };
}
