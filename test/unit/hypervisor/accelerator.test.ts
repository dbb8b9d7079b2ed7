import { expect, test } from "vitest";
import {
  chooseAccelerator,
  classifyKvmDevice,
  type HostVirtualization,
  inspectKvmDevice,
  type KvmDevice,
} from "../../../src/hypervisor/accelerator.ts";

const host = (architecture: string, hasVirtualization: boolean, kvm: KvmDevice): HostVirtualization => ({
  architecture,
  cpu: { hasVirtualization, tscKhz: undefined },
  kvm,
});

const works = [
  { name: "a device for a group", on: host("x64", true, { tag: "group", gid: 104 }) },
  { name: "a device for everyone", on: host("x64", true, { tag: "everyone" }) },
  { name: "aarch64, which has no flag", on: host("arm64", false, { tag: "everyone" }) },
];

test.each(works)("chooseAccelerator() takes KVM: $name", ({ on }) => {
  expect([chooseAccelerator("kvm", on), chooseAccelerator("auto", on), chooseAccelerator("tcg", on)]).toEqual(
    ["kvm", "kvm", "tcg"],
  );
});

const fails = [
  {
    name: "a device without hardware behind it",
    on: host("x64", false, { tag: "everyone" }),
    fact: "neither vmx nor svm in /proc/cpuinfo (/dev/kvm is there but nothing usable is behind it)",
  },
  {
    name: "no hardware",
    on: host("x64", false, { tag: "missing" }),
    fact: "neither vmx nor svm in /proc/cpuinfo; switch virtualization on",
  },
  {
    name: "no module",
    on: host("x64", true, { tag: "missing" }),
    fact: 'load the kernel module ("modprobe kvm_intel"',
  },
  {
    name: "a device that does not open",
    on: host("x64", true, { tag: "broken", errno: "EPERM" }),
    fact: "/dev/kvm cannot be opened (EPERM)",
  },
  {
    name: "a device for root alone",
    on: host("arm64", false, { tag: "private", mode: 0o600 }),
    fact: "/dev/kvm has mode 0600",
  },
];

test.each(fails)("chooseAccelerator() refuses kvm, and auto takes TCG: $name", ({ on, fact }) => {
  expect(() => chooseAccelerator("kvm", on)).toThrow(
    expect.objectContaining({ code: "failed_precondition", message: expect.stringContaining(fact) }),
  );
  expect(chooseAccelerator("auto", on)).toBe("tcg");
});

test.each([
  { mode: 0o020666, gid: 0, want: { tag: "everyone" } },
  { mode: 0o020660, gid: 104, want: { tag: "group", gid: 104 } },
  { mode: 0o020660, gid: 0, want: { tag: "private", mode: 0o660 } },
  { mode: 0o020600, gid: 104, want: { tag: "private", mode: 0o600 } },
  { mode: 0o020664, gid: 104, want: { tag: "group", gid: 104 } },
])("classifyKvmDevice($mode, $gid)", ({ mode, gid, want }) => {
  expect(classifyKvmDevice(mode, gid)).toEqual(want);
});

test("inspectKvmDevice() tells a missing device from one that does not open", async () => {
  expect(await inspectKvmDevice("/dev/caisson-is-not-there")).toEqual({ tag: "missing" });
  expect(await inspectKvmDevice("/dev")).toEqual({ tag: "broken", errno: "EISDIR" });
});
