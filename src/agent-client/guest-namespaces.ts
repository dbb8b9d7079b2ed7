import { RuntimeError } from "../base/errors.ts";
import type { Spec } from "../oci/spec.ts";

/** Namespaces that the containers of a sandbox can share; the network is shared always. */
export type SharedNamespace = "pid" | "ipc" | "uts" | "user";

const shareable: readonly string[] = ["pid", "ipc", "uts", "user"] satisfies SharedNamespace[];

/** Without these of its own, or its sandbox's, a container would be in those of the agent. */
const needed = ["network", "mount", "pid", "ipc", "uts"];

/**
 * The namespaces that a container shares with its sandbox: those whose path is of a process that stands for the
 * sandbox on the host, the VMM say. `sandboxPids` are their ids, none for the container that the sandbox is made for.
 *
 * The user namespace that containerd makes for a pod, which the first container has as a path, is no one to join.
 *
 * All containers of a sandbox have the VMM's process id, so the namespace of one that is not the first cannot be named.
 *
 * @throws failed_precondition  the host's namespace
 * @throws invalid_argument     a namespace of something else than the sandbox
 */
export function sharedNamespaces(spec: Spec, sandboxPids: readonly number[]): SharedNamespace[] {
  const namespaces = spec.linux?.namespaces ?? [];
  for (const type of needed) {
    if (namespaces.some((namespace) => namespace.type === type)) continue;
    throw new RuntimeError(
      "failed_precondition",
      `Cannot create the container: it has no ${type} namespace of its own, and the host's is out of reach of a VM`,
    );
  }
  return namespaces
    .filter((namespace) => namespace.type !== "network" && (namespace.path ?? "") !== "")
    .filter(({ type }) => !(type === "user" && sandboxPids.length === 0 && hasMappings(spec)))
    .map(({ type, path = "" }) => {
      const isSandboxes = sandboxPids.some((pid) => path === `/proc/${pid}/ns/${type}`);
      if (isShareable(type) && isSandboxes) return type;
      throw new RuntimeError(
        "invalid_argument",
        `Cannot create the container: the ${type} namespace "${path}" is not of its sandbox; a VM cannot join namespaces of the host or of another VM`,
      );
    });
}

/** Then a user namespace of the host stands for its mappings: the guest makes one that is the same. */
function hasMappings({ linux }: Spec): boolean {
  return (linux?.uidMappings ?? []).length > 0 && (linux?.gidMappings ?? []).length > 0;
}

function isShareable(type: string): type is SharedNamespace {
  return shareable.includes(type);
}
