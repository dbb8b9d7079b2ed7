import { expect, test } from "vitest";
import { bootLab, labImage, spareDisk } from "../support/lab.ts";
import { q35 } from "./hosts.ts";

const minutes = 60_000;
const { address } = spareDisk;
/** What an operator does: vfio-pci instead of the host's driver, and the group's device for a group of users. */
const bind = `
device=/sys/bus/pci/devices/${address}
modprobe -a vfio-pci vfio_iommu_type1
echo vfio-pci >$device/driver_override
echo ${address} >$device/driver/unbind
echo ${address} >/sys/bus/pci/drivers_probe
group=$(basename "$(readlink $device/iommu_group)")
chgrp kvm /dev/vfio/$group
chmod 0660 /dev/vfio/$group
ulimit -l unlimited`;

test("a PCI device of the host is the guest's by VFIO, with an IOMMU", async (context) => {
  const image = labImage();
  if (image.tag === "missing") return context.skip(image.reason);
  if (process.env["CAISSON_TEST_LEVEL"] !== "all") context.skip("long case: make test-lab runs it");
  await using lab = await bootLab({ image: image.path, hasIommu: true });
  const run = "build/libexec/node --no-warnings --test test/lab/guest/vfio.test.ts";
  const result = await lab.run(
    `set -e\n${bind}\nCAISSON_TEST_PATIENCE=5 CAISSON_TEST_SETTINGS='${q35.settings}' ${run}`,
    { timeoutMs: 15 * minutes },
  );

  expect(result.exitCode, result.stdout + result.stderr).toBe(0);
});
