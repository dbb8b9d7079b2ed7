import type { Spec } from "../oci/spec.ts";

/** Of the VM's disk with the image of a container's root. */
export const rootDiskId = "root";

/** The guest's configuration of a container whose root the agent makes of that disk (`root_disk` in agent.proto). */
export function withRootDisk(spec: Spec, containerId: string): Spec {
  return { ...spec, root: { ...spec.root, path: `/run/caisson/roots/${containerId}/rootfs` } };
}
