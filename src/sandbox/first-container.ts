import { RuntimeError } from "../base/errors.ts";
import type { ContainerPlan } from "./container-plan.ts";
import type { VmRequest } from "./vm.ts";

/** What a VM takes from the container that it is booted for. */
export type FirstContainer = Pick<
  VmRequest,
  "spec" | "blockDevices" | "vfioGroups" | "rootImage" | "isWithoutShare"
>;

/** Whether the container sees files of the host. */
export function needsShare({ rootImage, binds }: Pick<ContainerPlan, "rootImage" | "binds">): boolean {
  return rootImage === undefined || binds.length > 0;
}

/** @throws failed_precondition  the VM runs, and lacks what the container needs */
export function checkFits(
  containerId: string,
  plan: Pick<ContainerPlan, "rootImage" | "binds" | "vfioGroups">,
  vm: { readonly isBooted: boolean; readonly isWithoutShare: boolean },
): void {
  const refuse = (fact: string) =>
    new RuntimeError("failed_precondition", `Cannot create container "${containerId}": its VM runs ${fact}`);
  if (plan.rootImage !== undefined && vm.isBooted)
    throw refuse("already, and takes the disk of its root image when it boots");
  if (plan.vfioGroups.length > 0 && vm.isBooted)
    throw refuse("already, and takes PCI devices of the host when it boots");
  if (needsShare(plan) && vm.isWithoutShare) throw refuse("without a share of the host's files");
}
