import { existsSync, readdirSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { attachLoop, type Loop, withDevices } from "../support/loops.ts";
import { createPod, type Pod, type PodContainer } from "../support/model-pod.ts";
import { usesQ35 } from "../support/suite-settings.ts";

const iommuGroups = "/sys/kernel/iommu_groups";
let pod: Pod;
let first: PodContainer;
const loops: Loop[] = [];
beforeAll(async () => {
  pod = createPod();
  for (const name of ["data", "constant", "late"]) loops.push(attachLoop(pod.dir, name));
  const [data, constant] = loops as [Loop, Loop];
  first = await pod.start("", withDevices([data, "/dev/xvda", "rwm"], [constant, "/dev/disk/constant", "r"]));
});
afterAll(async () => {
  await pod.sandbox.close();
  for (const loop of loops) loop[Symbol.dispose]();
  await pod[Symbol.asyncDispose]();
});

test("a block device of the host is a disk of the VM and a node in the container", async () => {
  const seen = await first.sh(
    "head -n 1 /dev/xvda; stat -c %F:%u:%g:%a /dev/xvda; echo changed | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null",
  );

  expect(seen.output).toBe("data\nblock special file:3:4:640\n");
  expect(readFileSync(loops[0]?.file ?? "", "latin1").slice(0, 8)).toBe("changed\n");
});

test("without the right to write it is read-only, on the host too", async () => {
  const seen = await first.sh(
    "head -n 1 /dev/disk/constant; echo changed | dd of=/dev/disk/constant conv=notrunc 2>&1; cat /sys/block/vd[a-z]/ro",
  );

  expect(seen.output).toMatch(/^constant\n.*(not permitted|Read-only|Permission denied)/);
  // The guest's image, the two disks.
  expect(seen.output).toMatch(/1\n0\n1\n$/);
  expect(readFileSync(loops[1]?.file ?? "", "latin1").slice(0, 9)).toBe("constant\n");
});

test("a later container gets what the VM has, with its own rights", async () => {
  const [data] = loops as [Loop];
  const script = "head -c 5 /dev/again; echo x 2>&1 >/dev/again";
  const again = await pod.run("again", script, withDevices([data, "/dev/again", "r"]));

  expect(again.output).toMatch(/^chang/);
  expect(again.output).toMatch(/not permitted/);
  const none = await pod.run("none", "ls /dev/xvda; mknod /tmp/vdb b 254 16; cat /tmp/vdb");
  expect(none.output).toMatch(/\/dev\/xvda: No such file/);
  expect(none.output).toMatch(/not permitted/);
});

test("what the VM has read-only is not given to write; what it lacks is refused where it takes none later", async () => {
  const [, constant, late] = loops as [Loop, Loop, Loop];
  const refusal = (words: string) => ({
    code: "failed_precondition",
    message: expect.stringContaining(words),
  });
  await expect(pod.start("more", withDevices([constant, "/dev/x", "rwm"]))).rejects.toMatchObject(
    refusal("read-only"),
  );
  if (usesQ35) return;
  await expect(pod.start("late", withDevices([late, "/dev/late", "rwm"]))).rejects.toMatchObject(
    refusal("runs without it"),
  );
});

test("a device that the host does not have is refused before a VM boots", async () => {
  await using other = createPod();
  const missing = { major: 259, minor: 4000 };

  await expect(other.start("", withDevices([missing, "/dev/missing", "r"]))).rejects.toMatchObject({
    message: expect.stringContaining("259:4000"),
  });
});

test.skipIf(existsSync(iommuGroups) && readdirSync(iommuGroups).length > 0)(
  "a PCI device of the host is refused before a VM boots where the host has no IOMMU",
  async () => {
    await using other = createPod();
    const devices = [{ path: "/dev/vfio/12", type: "c", major: 511, minor: 1 }];

    await expect(other.start("", { linux: { devices } })).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("this host has no IOMMU"),
    });
  },
);
