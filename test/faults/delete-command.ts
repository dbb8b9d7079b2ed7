import { existsSync } from "node:fs";
import { expect } from "vitest";
import { buildPath } from "../support/cli-build.ts";
import { outcome, run, type RunResult } from "../support/cli-run.ts";
import type { Containerd } from "../support/containerd.ts";
import type { Scene } from "./scene.ts";

const shim = buildPath("bin/containerd-shim-caisson-v2");

/** Where containerd keeps the bundle of a container. */
export function bundleOf({ containerd, id }: { containerd: Containerd; id: string }): string {
  return containerd.dir.join("state/io.containerd.runtime.v2.task", containerd.namespace, id);
}

/** containerd gives the command 5 s (`timeout.shim.cleanup`); we promise 3 s, on a machine that is not busy otherwise. */
const limitSeconds = 5;

/** Runs the shim's `delete` as containerd does for a dead shim, and checks that it succeeds in time. */
export async function runShimDelete(scene: Scene): Promise<RunResult> {
  const { namespace, dir } = scene.containerd;
  const bundle = bundleOf(scene);
  const flags = ["-namespace", namespace, "-address", dir.join("containerd.sock"), "-id", scene.id];
  const argv = [shim, ...flags, "-publish-binary", "containerd", "-bundle", bundle, "delete"];
  const result = await run(argv, {
    ...(existsSync(bundle) ? { cwd: bundle } : {}),
    env: { CAISSON_CONFIG: dir.join("caisson.toml") },
    timeoutMs: 20_000,
  });
  const seconds = result.durationMs / 1000;
  scene.note(`\`delete\` ${seconds.toFixed(2)} s`);
  expect(result.exitCode, outcome(result)).toBe(0);
  expect(seconds, "seconds of the `delete` command").toBeLessThan(limitSeconds);
  return result;
}
