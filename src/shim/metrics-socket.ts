import { createHash } from "node:crypto";
import { join } from "node:path";

/**
 * Where the daemon of a sandbox serves its metrics: beside the command line's sockets, for daemons of containerd too. A
 * hash, because the path of a unix socket is at most 107 bytes long (unix(7)) and ids can have 76 characters each.
 */
export function metricsSocketPath(stateDirectory: string, namespace: string, sandboxId: string): string {
  const hash = createHash("sha256").update(`${namespace}/${sandboxId}`).digest("hex").slice(0, 32);
  return join(stateDirectory, ".shims", `${hash}.metrics`);
}
