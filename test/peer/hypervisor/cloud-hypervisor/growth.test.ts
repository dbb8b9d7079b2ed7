import { closeSync, openSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { createCloudHypervisorDriver } from "../../../../src/hypervisor/cloud-hypervisor/driver.ts";
import type { RunningVm } from "../../../../src/hypervisor/hypervisor.ts";
import type { VmConfig } from "../../../../src/hypervisor/vm-config.ts";
import {
  fakeCloudHypervisor,
  recordedRequests,
  writeFakeCloudHypervisor,
} from "../../../support/fake-cloud-hypervisor.ts";
import { fakeVmConfig } from "../../../support/fake-vmm.ts";
import { attachLoop } from "../../../support/loops.ts";
import { createTempDir, type TempDir } from "../../../support/temp-dir.ts";
import { violations } from "../../../unit/hypervisor/cloud-hypervisor/api-schema.ts";

const growth = { maxVcpus: 4, maxMemoryMiB: 1024 };

function boot(dir: TempDir, body: string, changes: Partial<VmConfig> = { growth }): Promise<RunningVm> {
  const driver = createCloudHypervisorDriver({
    cloudHypervisorPath: writeFakeCloudHypervisor(dir, body),
    warn: () => {},
  });
  const base = { accelerator: "kvm", machine: "q35", vsock: { tag: "hybrid" } } as const;
  const config = fakeVmConfig(dir, { ...base, ...changes });
  return driver.boot(config, { signal: new AbortController().signal, onProcess: () => {} });
}

/** The requests to a VM that has booted. */
function requestsSinceBoot(dir: TempDir) {
  const requests = recordedRequests(dir);
  return requests.slice(requests.findIndex(({ endpoint }) => endpoint === "vm.boot") + 1);
}

test("plug() gives its unprivileged process a block device of root's; unplug() waits until the guest has let go", async () => {
  await using dir = createTempDir();
  using loop = attachLoop(dir, "late");
  await using vm = await boot(dir, fakeCloudHypervisor.grows);
  const disk = { id: "volume-0", path: loop.path, readOnly: true, isBlockDevice: true };

  await vm.plug({ tag: "disk", disk });
  await vm.unplug("volume-0");

  expect(readFileSync(dir.join("vm", "disks"), "latin1")).toBe("late\n");
  const [add, remove] = requestsSinceBoot(dir);
  expect(add).toMatchObject({ endpoint: "vm.add-disk", body: { id: "disk-volume-0", readonly: true } });
  expect(violations(add?.body, "DiskConfig")).toEqual([]);
  expect(remove).toEqual({ endpoint: "vm.remove-device", body: { id: "disk-volume-0" } });
  expect(violations(remove?.body, "VmRemoveDevice")).toEqual([]);
  await expect(vm.unplug("volume-0")).rejects.toMatchObject({ code: "not_found" });
});

test("plug() of what is no block device is refused, and takes no slot", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir, fakeCloudHypervisor.grows);
  const plug = (id: string) => vm.plug({ tag: "disk", disk: { id, path: "/dev/null", readOnly: true } });

  await expect(plug("none")).rejects.toMatchObject({ code: "invalid_argument" });
  expect(requestsSinceBoot(dir)).toEqual([]);
});

test("plug() hands a tap over; the VM has sixteen slots", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir, fakeCloudHypervisor.grows);
  const tapFd = openSync("/dev/null", "r+");
  const plug = (id: string) => vm.plug({ tag: "nic", nic: { id, macAddress: "02:00:00:00:00:01", tapFd } });
  for (let index = 0; index < 16; index++) await plug(`eth${index}`);

  await expect(plug("eth16")).rejects.toMatchObject({ code: "resource_exhausted" });
  closeSync(tapFd);
  expect(requestsSinceBoot(dir)).toHaveLength(16);
  expect(violations(requestsSinceBoot(dir)[0]?.body, "NetConfig")).toEqual([]);
});

test("resize() offers memory and CPUs, each once, and waits until the guest has the memory", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir, fakeCloudHypervisor.grows);

  await vm.resize({ vcpus: 2, memoryMiB: 301 });
  await vm.resize({ vcpus: 2, memoryMiB: 301 });

  const resizes = requestsSinceBoot(dir).filter(({ endpoint }) => endpoint === "vm.resize");
  // The guest takes pieces of 4 MiB.
  expect(resizes.map(({ body }) => body)).toEqual([{ desired_ram: 304 * 1024 ** 2 }, { desired_vcpus: 2 }]);
  expect(resizes.flatMap(({ body }) => violations(body, "VmResize"))).toEqual([]);
});

test.for([
  { name: "memory", size: { vcpus: 1, memoryMiB: 2048 }, most: "it can have 960 MiB" },
  { name: "CPUs", size: { vcpus: 5, memoryMiB: 64 }, most: "it can have 4" },
])("resize() beyond the most $name is refused", async ({ size, most }) => {
  await using dir = createTempDir();
  await using vm = await boot(dir, fakeCloudHypervisor.grows);

  await expect(vm.resize(size)).rejects.toMatchObject({
    code: "resource_exhausted",
    message: expect.stringContaining(most),
  });
});

test("unplug() of what the guest keeps says so", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir, fakeCloudHypervisor.keeps);
  const tapFd = openSync("/dev/null", "r+");
  await vm.plug({ tag: "nic", nic: { id: "eth0", macAddress: "02:00:00:00:00:01", tapFd } });
  closeSync(tapFd);

  await expect(vm.unplug("eth0")).rejects.toMatchObject({ code: "deadline_exceeded" });
});

test("a VM without room to grow keeps what it boots with", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir, fakeCloudHypervisor.grows, {});

  await expect(vm.resize({ vcpus: 2, memoryMiB: 64 })).rejects.toMatchObject({ code: "unimplemented" });
});
