/** A PCI device by VFIO: run in a lab with an IOMMU, whose spare disk is bound to vfio-pci, by `node --test`. */
import assert from "node:assert/strict";
import { readlinkSync } from "node:fs";
import { basename } from "node:path";
import { test } from "node:test";
import { spareDisk } from "../../support/lab.ts";
import { createPod } from "../../support/model-pod.ts";

void test("the device of an IOMMU group is a disk of the guest, which reads it", async () => {
  const group = basename(readlinkSync(`/sys/bus/pci/devices/${spareDisk.address}/iommu_group`));
  // All of it is pinned, which takes its time in here.
  await using pod = createPod({ memoryMiB: 256 });
  // The guest's disks: a container that may use everything gets nothing of the host's.
  const disks = [
    { allow: false, access: "rwm" },
    { allow: true, type: "b", access: "rwm" },
  ];
  const first = await pod.start("", {
    linux: {
      devices: [{ path: `/dev/vfio/${group}`, type: "c", major: 511, minor: 1 }],
      resources: { devices: disks },
    },
  });
  // The guest's image is the first.
  const script =
    "cat /sys/block/vdb/serial; echo; cat /sys/block/vdb/size; mknod /tmp/vdb b $(sed 's/:/ /' /sys/block/vdb/dev); head -n 1 /tmp/vdb";
  const seen = await first.sh(script);
  await pod.sandbox.close();

  assert.equal(seen.output, `${spareDisk.serial}\n${spareDisk.sectors}\n${spareDisk.text}`);
});
