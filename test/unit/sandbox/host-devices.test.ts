import { mkdirSync, symlinkSync } from "node:fs";
import { expect, test } from "vitest";
import { findHostDevices } from "../../../src/sandbox/host-devices.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

/** A tree as the kernel's: groups, their devices and what drives them. */
function makeGroups(
  dir: TempDir,
  groups: Readonly<Record<string, Readonly<Record<string, string>>>>,
): string {
  for (const [group, devices] of Object.entries(groups)) {
    for (const [address, driver] of Object.entries(devices)) {
      mkdirSync(dir.join(group, "devices", address), { recursive: true });
      if (driver !== "")
        symlinkSync(`../../drivers/${driver}`, dir.join(group, "devices", address, "driver"));
    }
  }
  return dir.path;
}

test("the devices of a group that vfio-pci drives, by their addresses; bridges stay with the host", async () => {
  await using dir = createTempDir();
  const directory = makeGroups(dir, {
    "12": { "0000:65:00.1": "vfio-pci", "0000:64:00.0": "pcieport", "0000:65:00.0": "vfio-pci" },
    "13": { "0000:01:00.0": "nvme" },
  });

  expect(await findHostDevices([12, 12], directory)).toEqual([
    { address: "0000:65:00.0", group: 12 },
    { address: "0000:65:00.1", group: 12 },
  ]);
  await expect(findHostDevices([13], directory)).rejects.toMatchObject({
    code: "failed_precondition",
    message: expect.stringContaining("bound to the driver vfio-pci"),
  });
  await expect(findHostDevices([14], directory)).rejects.toMatchObject({ code: "not_found" });
});

test("a host without an IOMMU is told what it lacks; who wants no device is not", async () => {
  await using dir = createTempDir();

  await expect(findHostDevices([7], dir.join("none"))).rejects.toMatchObject({
    code: "failed_precondition",
    message: expect.stringMatching(/"\/dev\/vfio\/7" to a VM: this host has no IOMMU/),
  });
  expect(await findHostDevices([], dir.join("none"))).toEqual([]);
});
