import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import type { ShimProgram } from "../client/shim-program.ts";
import type { Reporting } from "./report.ts";
import type { ContainerStore } from "./store.ts";

/** What the commands work with. */
export interface Host {
  readonly config: Config;
  readonly containers: ContainerStore;
  readonly shimPath: string;
  /** What stands on the host for a container's first process. */
  readonly standInPath: string;
  /** How to run this program again. */
  readonly ownArgv: readonly string[];
  readonly reporting: Reporting;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

export function shimOf({ shimPath, containers }: Host, id: string): ShimProgram {
  const { shim, config } = containers.paths(id);
  const { namespace, sandboxId } = containers.sandboxName(id);
  return { path: shimPath, namespace, containerId: sandboxId, bundle: shim, config };
}

/** @throws permission_denied */
export function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new RuntimeError(
    "permission_denied",
    "caisson-oci needs root, for mounts and for the users that VMs run as; rootless containers are not supported",
  );
}
