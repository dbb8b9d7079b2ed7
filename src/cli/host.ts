import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import { ContainerStore } from "./container-store.ts";
import type { ShimProgram } from "../client/shim-program.ts";

/** The namespace of everything that the command line starts, as containerd has "default" or "k8s.io". */
export const namespace = "caisson";

/** What the commands work with. */
export interface Host {
  readonly config: Config;
  readonly containers: ContainerStore;
  readonly shimPath: string;
  /** How to run this program again. */
  readonly ownArgv: readonly string[];
}

export function shimOf(host: Host, containerId: string): ShimProgram {
  const { bundle, config } = host.containers.paths(containerId);
  return { path: host.shimPath, namespace, containerId, bundle, config };
}

/** @throws permission_denied */
export function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new RuntimeError(
    "permission_denied",
    "Cannot work with containers: it needs root, for mounts and for the users that VMs run as",
  );
}
