import type { Spec } from "../oci/spec.ts";
import type { ContainerPlan } from "./container-plan.ts";

/**
 * Whether a container whose init has ended may have written what only the guest's memory has. What it writes to the share is on the host
 * when a write returns, and mapped files when the process has ended. A PID namespace of its own has no process left when its init is
 * gone; of others that is not known, nor what the guest still has for a disk.
 */
export function mayLeaveWrites(
  spec: Spec,
  { blockDevices, vfioGroups }: Pick<ContainerPlan, "blockDevices" | "vfioGroups">,
): boolean {
  const hasOwnPids = spec.linux?.namespaces?.some(({ type, path = "" }) => type === "pid" && path === "");
  return blockDevices.length > 0 || vfioGroups.length > 0 || hasOwnPids !== true;
}
