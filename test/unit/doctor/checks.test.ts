import { mkdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { Config } from "../../../src/config/config.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { cni, containerd, containerdRuntime } from "../../../src/doctor/containerd.ts";
import { examine, isHealthy } from "../../../src/doctor/doctor.ts";
import { type Check, isOlder, versionIn } from "../../../src/doctor/finding.ts";
import { guestFiles, hypervisor, virtiofsd } from "../../../src/doctor/guest.ts";
import { cgroups, disk, limits, permissions } from "../../../src/doctor/host.ts";
import { cpu, kvm, landlock, trafficControl, tun, vsock } from "../../../src/doctor/virtualization.ts";
import type { HostVirtualization } from "../../../src/hypervisor/accelerator.ts";
import { type FakeHost, fakeProbe } from "../../support/fake-probe.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const defaults = loadConfig({
  environment: { CAISSON_CONFIG: "/dev/null" },
  executableDirectory: "/usr/lib/caisson/bin",
});
const withKvm: HostVirtualization = {
  architecture: "x64",
  cpu: { hasVirtualization: true, tscKhz: undefined },
  kvm: { tag: "group", gid: 104 },
};
const ended = (output: string) => ({ tag: "ended" as const, output });
const backend = defaults.vhostDeviceVsockPath;
const allCapabilities = "Name:\tx\nCapEff:\t000001ffffffffff\n";

interface Case {
  readonly name: string;
  readonly check: Check;
  readonly host: FakeHost;
  readonly config?: Partial<Config>;
  readonly status: "ok" | "warning" | "error";
  readonly finding: RegExp;
  readonly remedy?: RegExp;
}

const cases: Case[] = [
  {
    name: "a CPU with svm",
    check: cpu,
    host: { virtualization: withKvm },
    status: "ok",
    finding: /vmx or svm/,
  },
  {
    name: "a CPU without",
    check: cpu,
    host: {},
    status: "error",
    finding: /neither vmx/,
    remedy: /firmware/,
  },
  {
    name: "a CPU without, for who has asked for emulation",
    check: cpu,
    host: {},
    config: { accel: "auto" },
    status: "warning",
    finding: /neither vmx/,
  },
  {
    name: "KVM that makes VMs",
    check: kvm,
    host: { virtualization: withKvm, programs: { [defaults.qemuPath]: ended("") } },
    status: "ok",
    finding: /makes VMs/,
  },
  {
    name: "KVM that opens and makes none",
    check: kvm,
    host: {
      virtualization: withKvm,
      programs: { [defaults.qemuPath]: { tag: "failed", words: "Device or resource busy" } },
    },
    status: "error",
    finding: /opens, but makes no VM: Device or resource busy/,
    remedy: /dmesg/,
  },
  {
    name: "a module that is not loaded",
    check: kvm,
    host: { virtualization: { ...withKvm, kvm: { tag: "missing" } } },
    status: "error",
    finding: /\/dev\/kvm is missing/,
    remedy: /modprobe/,
  },
  {
    name: "vhost-vsock",
    check: vsock,
    host: { devices: ["/dev/vhost-vsock"] },
    status: "ok",
    finding: /kernel's/,
  },
  {
    name: "the backend in its place",
    check: vsock,
    host: { executables: [backend] },
    status: "warning",
    finding: /vhost-device-vsock/,
    remedy: /modprobe vhost_vsock/,
  },
  {
    name: "no vsock at all",
    check: vsock,
    host: {},
    status: "error",
    finding: /no program/,
    remedy: /modprobe/,
  },
  {
    name: "the kernel's vsock, asked for and not there",
    check: vsock,
    host: { executables: [backend] },
    config: { vsock: "vhost-vsock" },
    status: "error",
    finding: /does not open \(ENOENT\)/,
  },
  {
    name: "Cloud Hypervisor",
    check: vsock,
    host: {},
    config: { hypervisor: "cloud-hypervisor" },
    status: "ok",
    finding: /own/,
  },
  {
    name: "Landlock, which QEMU does without",
    check: landlock,
    host: {},
    status: "ok",
    finding: /version 0, not used/,
  },
  {
    name: "Landlock for Cloud Hypervisor",
    check: landlock,
    host: { landlockVersion: 6 },
    config: { hypervisor: "cloud-hypervisor" },
    status: "ok",
    finding: /version 6/,
  },
  {
    name: "a Landlock that is too old for Cloud Hypervisor",
    check: landlock,
    host: { landlockVersion: 2 },
    config: { hypervisor: "cloud-hypervisor" },
    status: "warning",
    finding: /version 2, Cloud Hypervisor wants 3/,
    remedy: /lsm=/,
  },
  { name: "tun", check: tun, host: { devices: ["/dev/net/tun"] }, status: "ok", finding: /opens/ },
  { name: "no tun", check: tun, host: {}, status: "error", finding: /ENOENT/, remedy: /modprobe tun/ },
  {
    name: "no tc",
    check: trafficControl,
    host: { programs: { ip: ended("") } },
    status: "error",
    finding: /tc/,
  },
  {
    name: "cgroups, version 2",
    check: cgroups,
    host: { texts: { "/sys/fs/cgroup/cgroup.controllers": "cpu memory" } },
    status: "ok",
    finding: /version 2/,
  },
  {
    name: "cgroups, version 1",
    check: cgroups,
    host: { directories: { "/sys/fs/cgroup": ["cpu", "memory"] } },
    status: "ok",
    finding: /version 1/,
  },
  { name: "no cgroups", check: cgroups, host: {}, status: "warning", finding: /no cgroup hierarchy/ },
  {
    name: "not root",
    check: permissions,
    host: { uid: 1000 },
    status: "error",
    finding: /1000/,
    remedy: /sudo/,
  },
  {
    name: "root in a container",
    check: permissions,
    host: { texts: { "/proc/self/status": "CapEff:\t00000000a80425fb\n" } },
    status: "error",
    finding: /without CAP_NET_ADMIN, CAP_SYS_ADMIN/,
  },
  {
    name: "root",
    check: permissions,
    host: { texts: { "/proc/self/status": allCapabilities } },
    status: "ok",
    finding: /root/,
  },
  {
    name: "few open files",
    check: limits,
    host: {
      texts: {
        "/proc/self/limits": "Max open files            1024                 4096                 files\n",
      },
    },
    status: "warning",
    finding: /at most 4096/,
    remedy: /ulimit/,
  },
  { name: "room", check: disk, host: {}, status: "ok", finding: /room/ },
  {
    name: "no room",
    check: disk,
    host: { freeBytes: 2 ** 20 },
    status: "warning",
    finding: /1 MiB free of 1024/,
  },
  { name: "no inodes", check: disk, host: { freeInodes: 12 }, status: "warning", finding: /12 inodes/ },
  {
    name: "QEMU too old",
    check: hypervisor,
    host: { programs: { [defaults.qemuPath]: ended("QEMU emulator version 6.2.0 (Debian)") } },
    status: "error",
    finding: /6\.2\.0, expected 7\.2/,
    remedy: /apt-get install/,
  },
  {
    name: "QEMU",
    check: hypervisor,
    host: { programs: { [defaults.qemuPath]: ended("QEMU emulator version 10.0.2") } },
    status: "ok",
    finding: /10\.0\.2/,
  },
  {
    name: "no Cloud Hypervisor",
    check: hypervisor,
    host: {},
    config: { hypervisor: "cloud-hypervisor" },
    status: "error",
    finding: /there is no/,
    remedy: /cloud_hypervisor_path/,
  },
  {
    name: "virtiofsd",
    check: virtiofsd,
    host: { programs: { [defaults.virtiofsdPath]: ended("virtiofsd 1.14.0") } },
    status: "ok",
    finding: /1\.14\.0/,
  },
  { name: "no containerd", check: containerd, host: {}, status: "ok", finding: /not installed/ },
  {
    name: "containerd without the shim",
    check: containerdRuntime,
    host: { programs: { containerd: ended("containerd 2.3.7") } },
    status: "warning",
    finding: /containerd-shim-caisson-v2 is not in/,
    remedy: /make install/,
  },
  {
    name: "containerd whose configuration does not know it",
    check: containerdRuntime,
    host: {
      programs: { containerd: ended("containerd 2.3.7") },
      executables: ["/usr/bin/containerd-shim-caisson-v2"],
    },
    status: "warning",
    finding: /does not name io\.containerd\.caisson\.v2/,
  },
  {
    name: "CNI without a network",
    check: cni,
    host: {
      programs: { containerd: ended("containerd 2.3.7") },
      directories: { "/usr/lib/cni": ["bridge", "loopback"] },
    },
    status: "warning",
    finding: /no network/,
  },
];

test.each(cases)("$name", async ({ check, host, config, status, finding, remedy }) => {
  const found = await check({ probe: fakeProbe(host), config: { ...defaults, ...config } });

  expect(found).toMatchObject({ status, finding: expect.stringMatching(finding) });
  if (remedy !== undefined) expect(found.remedy).toMatch(remedy);
  // Whatever is not well says why it matters and what to do.
  if (status !== "ok") expect(found).toMatchObject({ why: expect.any(String), remedy: expect.any(String) });
});

const release = "6.1.0-56-cloud-amd64";
const description = JSON.stringify({ name: "debian-cloud", release, acpi: true, initrd: "initrd" });

test.each([
  { name: "that match", kernel: release, modules: release, status: "ok", finding: /match/ },
  {
    name: "with another kernel",
    kernel: "6.12.1",
    modules: release,
    status: "error",
    finding: /is not Linux 6\.1/,
  },
  { name: "with other modules", kernel: release, modules: "6.12.1", status: "error", finding: /modules in/ },
])("guest files $name", async ({ kernel, modules, status, finding }) => {
  await using dir = createTempDir();
  const guestDirectory = dir.join("guest");
  mkdirSync(guestDirectory);
  for (const file of ["vmlinux", "initrd", "image.erofs"]) writeFileSync(`${guestDirectory}/${file}`, "");
  writeFileSync(`${guestDirectory}/kernel.json`, description);
  const texts = {
    [`${guestDirectory}/kernel.json`]: description,
    [`${guestDirectory}/vmlinux`]: `…Linux version ${kernel} (gcc)…`,
    [`${guestDirectory}/initrd`]: `…vermagic=${modules} SMP…`,
  };

  const found = await guestFiles({ probe: fakeProbe({ texts }), config: { ...defaults, guestDirectory } });

  expect(found).toMatchObject({ status, finding: expect.stringMatching(finding) });
});

test("guest files that are not there", async () => {
  const config = { ...defaults, guestDirectory: "/no/such/directory" };

  expect(await guestFiles({ probe: fakeProbe({}), config })).toMatchObject({
    status: "error",
    remedy: "make guest",
  });
});

test("examine() goes on after a check that fails itself, and that is an error", async () => {
  const probe = {
    ...fakeProbe({}),
    openDevice: () => Promise.reject(new Error("out of order")),
  };
  const told: string[] = [];

  const findings = await examine(probe, defaults, ({ name }) => told.push(name));

  expect(told).toEqual(findings.map(({ name }) => name));
  expect(findings.filter(({ finding }) => finding.includes("out of order"))).toHaveLength(2);
  expect(findings.length).toBeGreaterThan(12);
  expect(isHealthy(findings)).toBe(false);
});

test.each([
  { text: "QEMU emulator version 7.2.22 (Debian 1:7.2)", want: [7, 2, 22] },
  { text: "virtiofsd 1.14.0", want: [1, 14, 0] },
  { text: "cloud-hypervisor v53.0.0", want: [53, 0, 0] },
  { text: "none", want: undefined },
])("versionIn($text)", ({ text, want }) => {
  expect(versionIn(text)).toEqual(want);
});

test("isOlder() compares part by part", () => {
  expect(isOlder([7, 2], [7, 2])).toBe(false);
  expect(isOlder([10, 0], [7, 2])).toBe(false);
  expect(isOlder([7, 1, 9], [7, 2])).toBe(true);
  expect(isOlder([7], [7, 2])).toBe(true);
});
