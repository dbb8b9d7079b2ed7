import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { type HostCpu, readHostCpu } from "./host-cpu.ts";

/** How an unprivileged VMM can open /dev/kvm. */
export type KvmDevice =
  | { readonly tag: "missing" }
  /** It is there and we, as root, cannot open it. */
  | { readonly tag: "broken"; readonly errno: string }
  /** Only for its owner, or only for the group of root, which a VMM must not be in. */
  | { readonly tag: "private"; readonly mode: number }
  | { readonly tag: "group"; readonly gid: number }
  | { readonly tag: "everyone" };

export interface HostVirtualization {
  /** As in `process.arch`. */
  readonly architecture: string;
  readonly cpu: HostCpu;
  readonly kvm: KvmDevice;
}

/** Looks at the host. */
export async function inspectHost(): Promise<HostVirtualization> {
  const [cpu, kvm] = await Promise.all([readHostCpu(), inspectKvmDevice()]);
  return { architecture: process.arch, cpu, kvm };
}

/** Opens /dev/kvm and says who else can. */
export async function inspectKvmDevice(path = "/dev/kvm"): Promise<KvmDevice> {
  try {
    await using device = await open(path, constants.O_RDWR);
    const { mode, gid } = await device.stat();
    return classifyKvmDevice(mode, gid);
  } catch (error) {
    const errno = errnoOf(error) ?? String(error);
    return errno === "ENOENT" ? { tag: "missing" } : { tag: "broken", errno };
  }
}

/** Who besides root may open a device of this mode and group. */
export function classifyKvmDevice(mode: number, gid: number): KvmDevice {
  if ((mode & 0o006) === 0o006) return { tag: "everyone" };
  if ((mode & 0o060) === 0o060 && gid !== 0) return { tag: "group", gid };
  return { tag: "private", mode: mode & 0o777 };
}

/**
 * Turns the setting into what a VM is run with. `auto` takes KVM where it really works.
 *
 * @throws failed_precondition  `kvm` is asked for and does not work here; the message says why and what to do
 */
export function chooseAccelerator(setting: "kvm" | "tcg" | "auto", host: HostVirtualization): "kvm" | "tcg" {
  if (setting === "tcg") return "tcg";
  const obstacle = kvmObstacle(host);
  if (obstacle === undefined) return "kvm";
  if (setting === "auto") return "tcg";
  throw new RuntimeError(
    "failed_precondition",
    `Cannot use accel = "kvm": ${obstacle}, or set accel = "tcg", which is no security boundary and for development only`,
  );
}

function kvmObstacle({ architecture, cpu, kvm }: HostVirtualization): string | undefined {
  // Checked before the device: a device can be there, open and create VMs without hardware behind it, and then stock
  // guest kernels crawl or die (kernels with a page-table-based KVM). On aarch64 no flag tells, the device is trusted.
  if (["x64", "ia32"].includes(architecture) && !cpu.hasVirtualization) {
    const device = kvm.tag === "missing" ? "" : " (/dev/kvm is there but nothing usable is behind it)";
    return `the CPU shows neither vmx nor svm in /proc/cpuinfo${device}; switch virtualization on in the firmware, or nested virtualization for this VM`;
  }
  switch (kvm.tag) {
    case "missing":
      return `/dev/kvm is missing; load the kernel module ("modprobe kvm_intel" or "modprobe kvm_amd")`;
    case "broken":
      return `/dev/kvm cannot be opened (${kvm.errno}); check the kernel's log and whether the container we run in may use it`;
    case "private":
      return `/dev/kvm has mode 0${kvm.mode.toString(8)} and VMs do not run as root; give it to a group ("chgrp kvm /dev/kvm && chmod 0660 /dev/kvm")`;
    case "group":
    case "everyone":
      return undefined;
  }
}
