/**
 * Fills `build/lib/compile-cache`: V8's code of the executables, with the functions that a start of a sandbox's daemon needs. Node
 * takes it from there (NODE_COMPILE_CACHE, which the launchers set) instead of compiling anew in every process.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const bin = join(import.meta.dirname, "../build/bin");

/** A daemon comes up, and ends when its container is given up: nothing of it needs a VM or root. */
function fill(directory: string): void {
  const state = join(directory, "s");
  const bundle = join(directory, "bundle");
  const config = join(directory, "config.toml");
  for (const path of [state, bundle]) mkdirSync(path);
  writeFileSync(config, `state_directory = ${JSON.stringify(state)}\n`);
  writeFileSync(join(bundle, "config.json"), JSON.stringify({ ociVersion: "1.0.2" }));
  const run = (program: string, ...args: string[]) =>
    execFileSync(join(bin, program), args, {
      cwd: bundle,
      env: { PATH: process.env["PATH"], CAISSON_CONFIG: config },
      input: "",
    });
  const container = ["-namespace", "build", "-id", "compile-cache", "-bundle", bundle];
  run("containerd-shim-caisson-v2", ...container, "start");
  run("containerd-shim-caisson-v2", ...container, "delete");
  run("caisson", "ps");
  run("caisson-oci", "--root", state, "list");
}

const directory = mkdtempSync(join(tmpdir(), "caisson-"));
try {
  const cache = join(bin, "../lib/compile-cache");
  rmSync(cache, { recursive: true, force: true });
  // The launcher names it to Node only where there is one.
  mkdirSync(cache);
  fill(directory);
} finally {
  rmSync(directory, { recursive: true, force: true });
}
