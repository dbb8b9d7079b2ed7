import { readdir, readlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import type { HostDevice } from "../hypervisor/vm-config.ts";

const groupsDirectory = "/sys/kernel/iommu_groups";
/** Has a device for whoever opens its group; the host itself uses it no more (vfio.rst of the kernel's documentation). */
const vfioDriver = "vfio-pci";

/**
 * The PCI devices of IOMMU groups, by which a specification names them (`/dev/vfio/<group>`), by their addresses.
 *
 * @throws failed_precondition  this host has no IOMMU, or the host itself uses the devices of a group
 * @throws not_found            it has no such group
 */
export async function findHostDevices(
  groups: readonly number[],
  directory = groupsDirectory,
): Promise<HostDevice[]> {
  if (groups.length === 0) return [];
  const refuse = (code: "failed_precondition" | "not_found", group: number, fact: string) =>
    new RuntimeError(code, `Cannot give "/dev/vfio/${group}" to a VM: ${fact}`);
  const known = await listDirectory(directory);
  const devices: HostDevice[] = [];
  for (const group of new Set(groups)) {
    if (known.length === 0) {
      throw refuse(
        "failed_precondition",
        group,
        `this host has no IOMMU, or it is off (${directory} is empty); switch it on in the firmware and with "intel_iommu=on" or "amd_iommu=on" on the kernel's command line`,
      );
    }
    if (!known.includes(String(group))) throw refuse("not_found", group, "this host has no such IOMMU group");
    const found = await devicesOf(join(directory, String(group), "devices"), group);
    if (found.length === 0) {
      const fact = `none of the group's devices is bound to the driver ${vfioDriver} (driverctl set-override ADDRESS ${vfioDriver})`;
      throw refuse("failed_precondition", group, fact);
    }
    devices.push(...found);
  }
  return devices;
}

/** Bridges in a group keep their own driver and stay with the host. */
async function devicesOf(directory: string, group: number): Promise<HostDevice[]> {
  const addresses = await listDirectory(directory);
  const drivers = await Promise.all(addresses.map((address) => driverOf(join(directory, address))));
  return addresses.filter((_, index) => drivers[index] === vfioDriver).map((address) => ({ address, group }));
}

async function driverOf(device: string): Promise<string | undefined> {
  try {
    return basename(await readlink(join(device, "driver")));
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

async function listDirectory(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}
