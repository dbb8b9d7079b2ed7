import { checkVmConfig, refuseVmConfig } from "../check-config.ts";
import type { VmConfig } from "../vm-config.ts";

/**
 * Refuses what QEMU has not.
 *
 * @throws invalid_argument
 */
export function checkQemuConfig(config: VmConfig): void {
  checkVmConfig(config);
  if (config.vsock.tag === "hybrid") refuseVmConfig(config, "QEMU has no vsock of its own");
  if (config.machine !== "q35" && (config.hostDevices ?? []).length > 0)
    refuseVmConfig(config, 'it has PCI devices of the host, which takes the machine "q35"');
  if (config.memory !== undefined && (config.vsock.tag !== "vhost-vsock" || config.shares.length > 0))
    refuseVmConfig(
      config,
      "QEMU saves and restores a VM with the kernel's vhost-vsock and without a share only",
    );
  checkSlots(config);
  if (config.growth !== undefined && (config.machine !== "q35" || !config.kernel.acpi))
    refuseVmConfig(config, "it shall grow, which takes the machine q35 and a kernel with ACPI");
}

function checkSlots(config: VmConfig): void {
  const slots = slotsOf(config);
  const devices = countDevices(config);
  if (devices > slots)
    refuseVmConfig(
      config,
      `it has ${devices} devices, the microvm machine has ${slots} slots with this kernel`,
    );
}

/** Whether there is a slot for one device more, which the VM can do without. */
export function hasSpareSlot(config: VmConfig): boolean {
  return countDevices(config) < slotsOf(config);
}

/** The microvm machine has a fixed number of virtio slots: 24 on its second interrupt controller, 8 without ACPI. */
function slotsOf({ machine, kernel }: VmConfig): number {
  if (machine !== "microvm") return Number.POSITIVE_INFINITY;
  return kernel.acpi ? 24 : 8;
}

/** The vsock and the random number device are always there. */
function countDevices({ disks, shares, nics }: VmConfig): number {
  return disks.length + shares.length + nics.length + 2;
}
