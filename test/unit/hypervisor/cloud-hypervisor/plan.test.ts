import { expect, test } from "vitest";
import { EventReader } from "../../../../src/hypervisor/cloud-hypervisor/events.ts";
import { planCloudHypervisor } from "../../../../src/hypervisor/cloud-hypervisor/plan.ts";
import { parseAnswer } from "../../../../src/hypervisor/cloud-hypervisor/rest.ts";
import type { VmConfig } from "../../../../src/hypervisor/vm-config.ts";
import { violations } from "./api-schema.ts";

const base: VmConfig = {
  sandboxId: "sb1",
  directory: "/run/caisson/default/sb1/vm",
  user: { uid: 7_000_001, gid: 7_000_001 },
  machine: "microvm",
  accelerator: "kvm",
  vcpus: 2,
  memoryMiB: 256,
  kernel: { path: "/guest/vmlinux", initrdPath: "/guest/initrd", commandLine: "console=ttyS0", acpi: true },
  disks: [
    { id: "image", path: "/guest/image.erofs", readOnly: true },
    { id: "scratch", path: "/data/scratch.img", readOnly: false },
  ],
  shares: [{ tag: "caisson", socketName: "virtiofs.sock" }],
  nics: [{ id: "eth0", macAddress: "02:00:00:00:00:01", tapFd: 33 }],
  vsock: { tag: "hybrid" },
};

test("planCloudHypervisor(): the whole of what it is told", () => {
  expect(planCloudHypervisor(base, { landlock: true })).toEqual({
    args: ["--api-socket", "fd=3", "--event-monitor", "fd=4", "--seccomp", "true"],
    inherited: [
      { tag: "file", path: "/guest/vmlinux", access: "read" },
      { tag: "file", path: "/guest/initrd", access: "read" },
      { tag: "file", path: "/guest/image.erofs", access: "read" },
      { tag: "file", path: "/data/scratch.img", access: "read-write" },
    ],
    blockDevices: [],
    vm: {
      cpus: { boot_vcpus: 2, max_vcpus: 2, nested: false },
      memory: { size: 268_435_456, shared: true },
      payload: { kernel: "/proc/self/fd/5", cmdline: "console=ttyS0", initramfs: "/proc/self/fd/6" },
      disks: [
        { id: "disk-image", serial: "image", path: "/proc/self/fd/7", readonly: true, image_type: "Raw" },
        {
          id: "disk-scratch",
          serial: "scratch",
          path: "/proc/self/fd/8",
          readonly: false,
          image_type: "Raw",
        },
      ],
      fs: [{ id: "share0", tag: "caisson", socket: "./virtiofs.sock", num_queues: 1, queue_size: 1024 }],
      vsock: { cid: 3, socket: "./vsock" },
      rng: { src: "/dev/urandom" },
      serial: { mode: "Socket", socket: "./console.sock" },
      console: { mode: "Off" },
      landlock_enable: true,
    },
    nets: [{ body: { id: "nic-eth0", mac: "02:00:00:00:00:01", num_queues: 2, queue_size: 256 }, tapFd: 33 }],
  });
});

test.each<{ name: string; changes: Partial<VmConfig> }>([
  { name: "everything", changes: {} },
  { name: "no share, no network card", changes: { shares: [], nics: [] } },
  { name: "room to grow", changes: { growth: { maxVcpus: 4, maxMemoryMiB: 1024 } } },
  { name: "no initrd", changes: { kernel: { path: "/k", commandLine: "", acpi: true } } },
])("the requests for a VM with $name are as the API's description says", ({ changes }) => {
  const { vm, nets } = planCloudHypervisor({ ...base, ...changes }, { landlock: true });

  expect(violations(vm, "VmConfig")).toEqual([]);
  expect(nets.flatMap(({ body }) => violations(body, "NetConfig"))).toEqual([]);
});

test("planCloudHypervisor(): block devices are nodes in a folder that it inherits first", () => {
  const device = { id: "volume-0", path: "/dev/loop0", readOnly: true, isBlockDevice: true };
  const [image] = base.disks;
  const { inherited, blockDevices, vm } = planCloudHypervisor(
    { ...base, disks: image === undefined ? [device] : [image, device] },
    { landlock: true },
  );

  expect(inherited.map((file) => (file.tag === "file" ? file.path : file.tag))).toEqual([
    "device folder",
    "/guest/vmlinux",
    "/guest/initrd",
    "/guest/image.erofs",
  ]);
  expect(blockDevices).toEqual([device]);
  expect(vm.disks.map(({ path }) => path)).toEqual(["/proc/self/fd/8", "/proc/self/fd/5/volume-0"]);
  expect(vm.landlock_rules).toEqual([{ path: "/proc/self/fd/5", access: "rw" }]);
});

test("planCloudHypervisor(): a VM that grows has room for vCPUs, memory in steps of 128 MiB, and block devices", () => {
  const { inherited, vm } = planCloudHypervisor(
    { ...base, growth: { maxVcpus: 4, maxMemoryMiB: 1000 } },
    { landlock: false },
  );

  expect(vm.cpus).toEqual({ boot_vcpus: 2, max_vcpus: 4, nested: false });
  expect(vm.memory).toEqual({
    size: 256 * 1024 ** 2,
    shared: true,
    hotplug_method: "VirtioMem",
    hotplug_size: 640 * 1024 ** 2,
  });
  expect(inherited[0]).toEqual({ tag: "device folder" });
  expect(vm).not.toHaveProperty("landlock_rules");
});

test("the check of the requests finds what is wrong in one", () => {
  const wrong = { cpus: { boot_vcpus: "2" }, payload: {}, disk: [] };

  expect(violations(wrong, "VmConfig")).toEqual([
    "VmConfig.cpus.max_vcpus is missing",
    'VmConfig.cpus.boot_vcpus is "2", expected integer',
    "VmConfig.disk is no property",
  ]);
});

test.each<{ name: string; changes: Partial<VmConfig>; fact: string }>([
  { name: "TCG", changes: { accelerator: "tcg" }, fact: "runs with KVM only" },
  {
    name: "another vsock",
    changes: { vsock: { tag: "vhost-device-vsock" } },
    fact: "serves the vsock itself",
  },
  { name: "no vCPU", changes: { vcpus: 0 }, fact: "it has 0 vCPUs" },
])("planCloudHypervisor() refuses $name", ({ changes, fact }) => {
  expect(() => planCloudHypervisor({ ...base, ...changes }, { landlock: true })).toThrow(
    expect.objectContaining({ code: "invalid_argument", message: expect.stringContaining(fact) }),
  );
});

test.each([
  { name: "no body", text: "HTTP/1.1 204 \r\nServer: x\r\n\r\n", want: { status: 204, words: "" } },
  {
    name: "a body",
    text: "HTTP/1.1 400 \r\nContent-Length: 4\r\n\r\nnope",
    want: { status: 400, words: "nope" },
  },
  { name: "half a body", text: "HTTP/1.1 400 \r\nContent-Length: 4\r\n\r\nno", want: undefined },
  { name: "half a head", text: "HTTP/1.1 204 \r\nServer: x\r\n", want: undefined },
  { name: "no HTTP", text: "hello\r\n\r\n", want: { status: 0, words: "" } },
])("parseAnswer(): $name", ({ text, want }) => {
  expect(parseAnswer(text)).toEqual(want);
});

test("EventReader cuts events that come in pieces, and leaves out what is none", () => {
  const reader = new EventReader();

  expect(reader.push('{\n "source": "vm",\n "event": "boo')).toEqual([]);
  const removed =
    '{"source": "vm", "event": "device-removed", "properties": {"id": "disk-a", "bdf": "0000:00:05.0"}}';
  expect(reader.push(`ted"\n}\n\nnot json\n\n${removed}\n\n`)).toEqual([
    { source: "vm", event: "booted" },
    { source: "vm", event: "device-removed", id: "disk-a" },
  ]);
  expect(reader.push("x".repeat(20_000))).toEqual([]);
  expect(reader.push('\n\n{"source": "vm", "event": "shutdown"}\n\n')).toHaveLength(1);
});
