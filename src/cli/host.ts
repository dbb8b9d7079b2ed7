import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import { ContainerStore } from "./container-store.ts";
import type { ShimProgram } from "./shim-program.ts";

/** What the commands work with. */
export interface Host {
  readonly config: Config;
  readonly containers: ContainerStore;
  readonly shimPath: string;
  /** How to run this program again. */
  readonly ownArgv: readonly string[];
}

export function shimOf(host: Host, containerId: string): ShimProgram {
  return { path: host.shimPath, containerId, paths: host.containers.paths(containerId) };
}

/** @throws permission_denied */
export function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new RuntimeError(
    "permission_denied",
    "Cannot work with containers: it needs root, for mounts and for the users that VMs run as",
  );
}
