import { join } from "node:path";

/** Where the things of one sandbox lie on the host. All of it follows from the ids, so `delete` needs nothing else. */
export interface SandboxPaths {
  /** `<stateDirectory>/<namespace>/<sandbox id>` */
  readonly directory: string;
  /** Private to the VM's user: sockets of the VMM and its helpers. */
  readonly vm: string;
  readonly netns: string;
  readonly timeline: string;
  readonly trace: string;
}

/** Of VMs that have no sandbox yet, in the place of a namespace of containerd, whose names begin with a letter or a digit. */
export const readyNamespace = ".pool";

/** The name of the sandbox that a VM of the pool rehearses a start with. */
export function rehearsalId(id: string): string {
  return `${id}-rehearsal`;
}

export function sandboxPaths(stateDirectory: string, namespace: string, sandboxId: string): SandboxPaths {
  const directory = join(stateDirectory, namespace, sandboxId);
  return {
    directory,
    vm: join(directory, "vm"),
    netns: join(directory, "netns"),
    timeline: join(directory, "timeline.json"),
    trace: join(directory, "timeline.trace.json"),
  };
}
