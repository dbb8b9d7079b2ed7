import { chooseAccelerator } from "../hypervisor/accelerator.ts";
import { neededLandlock } from "../hypervisor/cloud-hypervisor/plan.ts";
import { describe } from "../base/errors.ts";
import { type Check, type CheckContext, error, type Finding, ok, warning } from "./finding.ts";

const noSecurity =
  "without hardware virtualization sandboxes run in software emulation, which is slow and no security boundary";

/** Whether something that only KVM needs is an error: not for those who have asked for emulation. */
function kvmTrouble({ config }: CheckContext) {
  return config.accel === "kvm" ? error : warning;
}

export const cpu: Check = async (context) => {
  const name = "CPU virtualization";
  const { architecture, cpu: found } = await context.probe.virtualization();
  if (found.hasVirtualization || architecture === "arm64") return ok(name, "the CPU has it (vmx or svm)");
  return kvmTrouble(context)(name, {
    finding: "/proc/cpuinfo shows neither vmx nor svm",
    why: noSecurity,
    remedy: "switch virtualization on in the firmware; for a VM: nested virtualization on its host",
  });
};

export const kvm: Check = async (context) => {
  const name = "KVM";
  const { probe, config } = context;
  const host = await probe.virtualization();
  try {
    chooseAccelerator("kvm", host);
  } catch (cause) {
    const remedy = host.cpu.hasVirtualization ? "modprobe -a kvm_intel kvm_amd" : 'see "CPU virtualization"';
    return kvmTrouble(context)(name, { finding: describe(cause), why: noSecurity, remedy });
  }
  if (config.hypervisor !== "qemu") return ok(name, "/dev/kvm opens");
  return await createsVms(context, name);
};

/** A device that opens may still make no VM: another hypervisor may hold the CPU, or it is switched off in the firmware. */
async function createsVms(context: CheckContext, name: string): Promise<Finding> {
  const { probe, config } = context;
  const qmp = '{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n';
  const machine = ["-machine", "none,accel=kvm", "-nodefaults", "-no-user-config", "-display", "none"];
  const result = await probe.run([config.qemuPath, ...machine, "-qmp", "stdio"], qmp);
  if (result.tag === "ended") return ok(name, "/dev/kvm opens and makes VMs");
  if (result.tag === "missing") return ok(name, "/dev/kvm opens");
  return kvmTrouble(context)(name, {
    finding: `/dev/kvm opens, but makes no VM: ${result.words}`,
    why: noSecurity,
    remedy: "dmesg | grep -i kvm",
  });
}

export const vsock: Check = async ({ probe, config }) => {
  const name = "vsock";
  if (config.hypervisor === "cloud-hypervisor") return ok(name, "Cloud Hypervisor's own");
  const errno = await probe.openDevice("/dev/vhost-vsock");
  const hasBackend = await probe.isExecutable(config.vhostDeviceVsockPath);
  const kernel = config.vsock !== "vhost-device-vsock";
  if (errno === undefined && kernel) return ok(name, "the kernel's vhost-vsock");
  const why = "the guest's agent is reached over vsock";
  const remedy = "modprobe vhost_vsock";
  if (config.vsock === "vhost-vsock")
    return error(name, {
      finding: `vsock = "vhost-vsock", and /dev/vhost-vsock does not open (${errno})`,
      why,
      remedy,
    });
  if (!hasBackend) {
    const finding = `no /dev/vhost-vsock (${errno ?? "not used"}), no program at "${config.vhostDeviceVsockPath}"`;
    return error(name, { finding, why, remedy });
  }
  if (!kernel) return ok(name, "vhost-device-vsock, as configured");
  return warning(name, {
    finding: `vhost-device-vsock: /dev/vhost-vsock does not open (${errno})`,
    why: "a process for each VM moves the bytes, which costs memory and time",
    remedy,
  });
};

export const landlock: Check = async ({ probe, config }) => {
  const name = "Landlock";
  const version = probe.landlockVersion();
  if (config.hypervisor !== "cloud-hypervisor") return ok(name, `version ${version}, not used with QEMU`);
  if (version >= neededLandlock) return ok(name, `version ${version}`);
  return warning(name, {
    finding: `this kernel has version ${version}, Cloud Hypervisor wants ${neededLandlock} or newer`,
    why: "with it a Cloud Hypervisor that a guest has taken over reaches only the files of its own VM",
    remedy: 'boot Linux 6.2 or newer with "landlock" in its lsm= list (cat /sys/kernel/security/lsm)',
  });
};

export const tun: Check = async ({ probe }) => {
  const name = "tap devices";
  const errno = await probe.openDevice("/dev/net/tun");
  if (errno === undefined) return ok(name, "/dev/net/tun opens");
  return error(name, {
    finding: `/dev/net/tun does not open (${errno})`,
    why: "every sandbox has a network device, which is a tap",
    remedy: "modprobe tun",
  });
};

export const trafficControl: Check = async ({ probe }) => {
  const name = "traffic control";
  const results = await Promise.all([probe.run(["tc", "-V"]), probe.run(["ip", "-V"])]);
  if (results.every(({ tag }) => tag === "ended")) return ok(name, "tc and ip are there");
  return error(name, {
    finding: "tc or ip is missing",
    why: "the network of a pod is led into its VM by tc",
    remedy: "apt-get install iproute2",
  });
};
