import type { VmFile } from "../open-file.ts";
import { vsockBackendSocketName } from "./vsock-backend.ts";
import { checkQemuConfig, hasSpareSlot } from "./check-qemu.ts";
import { option, type Properties } from "./option.ts";
import { growingMiB, growthArgs } from "./plan-growth.ts";
import type { Disk, Nic, Share, VmConfig } from "../vm-config.ts";

/** QEMU's command line without the program's name, and the file descriptors that it refers to. */
export interface QemuPlan {
  readonly args: readonly string[];
  /** What QEMU gets as fd 3 and up. QMP is always fd 3, the console fd 4. */
  readonly fds: readonly InheritedFd[];
}

/**
 * Files are opened by us and inherited: QEMU's user needs no way to their paths (a checkout in root's home, an image
 * of mode 0600), and what we open for reading it cannot write, whatever becomes of it.
 */
export type InheritedFd =
  | { readonly tag: "qmp" }
  | { readonly tag: "console" }
  | ({ readonly tag: "file" } & VmFile)
  | { readonly tag: "tap" | "vhost-vsock" | "memory"; readonly fd: number };

const firstFd = 3;

/**
 * Upper limit of the cache of translated code. QEMU's own is 1 GiB for each VM. A boot and a container's start fill
 * about 40 MiB; when it is full, it is emptied and filled again.
 */
const tcgCacheMiB = 128;

/**
 * Everything that QEMU (7.2 or newer) is told, from a VM's description.
 *
 * @throws invalid_argument  the description cannot be said to QEMU
 */
export function planQemu(config: VmConfig): QemuPlan {
  checkQemuConfig(config);
  const fds: InheritedFd[] = [{ tag: "qmp" }, { tag: "console" }];
  const inherit = (fd: InheritedFd) => fds.push(fd) - 1 + firstFd;
  const args = [
    ["-name", option(undefined, { guest: config.sandboxId })],
    ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ["-sandbox", option("on", deniedSystemCalls)],
    machine(config),
    memoryAndCpus(config, inherit),
    accelerator(config),
    config.memory?.tag === "restored" ? ["-incoming", "defer"] : kernel(config, inherit),
    [
      "-chardev",
      option("socket", { id: "qmp", fd: firstFd }),
      "-mon",
      option(undefined, { chardev: "qmp", mode: "control" }),
    ],
    ["-chardev", option("socket", { id: "console", fd: firstFd + 1 }), "-serial", "chardev:console"],
    ...config.disks.map((disk) => diskArgs(config, disk, inherit)),
    vsock(config, inherit),
    ...config.shares.map((share, index) => shareArgs(config, share, index)),
    ...config.nics.map((nic) => nicArgs(config, nic, inherit)),
    randomness(config),
    freePages(config),
    ...(config.hostDevices ?? []).map(({ address }) => ["-device", option("vfio-pci", { host: address })]),
    growthArgs(config),
  ].flat();
  return { args, fds };
}

type Inherit = (fd: InheritedFd) => number;

/** The user is dropped before QEMU is executed, so that not even `elevateprivileges` is needed. */
const deniedSystemCalls = {
  obsolete: "deny",
  elevateprivileges: "deny",
  spawn: "deny",
  resourcecontrol: "deny",
};

function machine({ machine: type, kernel: { acpi } }: VmConfig): string[] {
  // A core file of QEMU would hold the guest's memory. Pages that the host's kernel merges (KSM) tell others what is in them.
  const common = { "memory-backend": "mem", "dump-guest-core": "off", "mem-merge": "off" };
  if (type === "q35") {
    const unused = { usb: "off", sata: "off", smbus: "off", vmport: "off", i8042: "off", hpet: "off" };
    return ["-machine", option("q35", { ...unused, ...common })];
  }
  // Without ACPI the kernel finds its interrupt controller and timer as they were on a PC: PIC and PIT stay.
  const timers = { rtc: "on", pit: "on", pic: "on" };
  return [
    ["-machine", option("microvm", { acpi: acpi ? "on" : "off", ...timers, ...common })],
    // The small firmware made for this machine. Where a distribution's default is SeaBIOS (Debian 13), ACPI tables and initrd
    // end up at one address.
    ["-bios", "qboot.rom"],
    // vhost-user devices refuse the legacy interface of virtio-mmio, which is still the default.
    ["-global", "virtio-mmio.force-legacy=false"],
  ].flat();
}

function memoryAndCpus(config: VmConfig, inherit: Inherit): string[] {
  const { machine: type, memoryMiB, vcpus, growth } = config;
  const size = `${memoryMiB}M`;
  const moreMiB = growingMiB(config);
  const maxcpus = Math.max(vcpus, growth?.maxVcpus ?? 0);
  // A kernel without ACPI finds its CPUs in the firmware's MP table, where SeaBIOS lists one of each socket.
  const topology = type === "q35" ? { sockets: maxcpus, cores: 1, threads: 1 } : {};
  return [
    memory(config, size, inherit),
    ["-m", option(undefined, { size, ...(moreMiB > 0 && { maxmem: `${memoryMiB + moreMiB}M` }) })],
    ["-smp", option(undefined, { cpus: vcpus, ...(maxcpus > vcpus && { maxcpus }), ...topology })],
  ].flat();
}

function memory(config: VmConfig, size: string, inherit: Inherit): string[] {
  if (config.memory === undefined) {
    // Shared, because the vhost-user helpers map it. A memfd is not limited by the size of /dev/shm.
    return ["-object", option("memory-backend-memfd", { id: "mem", size, share: "on" })];
  }
  const path = `/proc/self/fd/${inherit({ tag: "memory", fd: config.memory.fd })}`;
  const share = config.memory.tag === "kept" ? "on" : "off";
  return ["-object", option("memory-backend-file", { id: "mem", size, "mem-path": path, share })];
}

function accelerator(config: VmConfig): string[] {
  if (config.accelerator === "kvm") return ["-accel", "kvm", "-cpu", "host"];
  // With these features the guest copies by string instructions of single bytes, which TCG emulates byte by byte: vsock moves
  // half as much per second then.
  const cpu = option("max", { erms: "off", fsrm: "off" });
  return ["-accel", option("tcg", { thread: "multi", "tb-size": tcgCacheMiB }), "-cpu", cpu];
}

function kernel({ kernel: { path, initrdPath, commandLine } }: VmConfig, inherit: Inherit): string[] {
  const file = (filePath: string) =>
    `/proc/self/fd/${inherit({ tag: "file", path: filePath, access: "read" })}`;
  return [
    ["-kernel", file(path)],
    initrdPath === undefined ? [] : ["-initrd", file(initrdPath)],
    ["-append", commandLine],
  ].flat();
}

function diskArgs(config: VmConfig, disk: Disk, inherit: Inherit): string[] {
  const { id, path, readOnly, isBlockDevice, isShared = false } = disk;
  const fd = inherit({ tag: "file", path, access: readOnly ? "read" : "read-write" });
  const node = `disk-${id}`;
  return [
    ["-add-fd", option(undefined, { fd, set: fd })],
    [
      "-blockdev",
      // QEMU's locks stay on, but for the guest's own image: readers share one, and one that somebody writes to is refused.
      option(undefined, {
        driver: "raw",
        "node-name": node,
        "read-only": readOnly ? "on" : "off",
        "file.driver": isBlockDevice ? "host_device" : "file",
        "file.filename": `/dev/fdset/${fd}`,
        ...(isShared && { "file.locking": "off" }),
      }),
    ],
    // "report": an error is the guest's to handle; the default stops the whole VM when the host's disk is full.
    device(config, "virtio-blk", { drive: node, serial: id, werror: "report", rerror: "report" }),
  ].flat();
}

function vsock(config: VmConfig, inherit: Inherit): string[] {
  if (config.vsock.tag === "vhost-vsock") {
    const { cid, fd } = config.vsock;
    const vhostfd = inherit({ tag: "vhost-vsock", fd });
    return device(config, "vhost-vsock", { "guest-cid": cid, vhostfd });
  }
  return [
    ["-chardev", option("socket", { id: "vsock", path: vsockBackendSocketName })],
    device(config, "vhost-user-vsock", { chardev: "vsock" }),
  ].flat();
}

function shareArgs(config: VmConfig, { tag, socketName }: Share, index: number): string[] {
  const chardev = `share${index}`;
  return [
    ["-chardev", option("socket", { id: chardev, path: socketName })],
    device(config, "vhost-user-fs", { chardev, tag, "queue-size": 1024 }),
  ].flat();
}

function nicArgs(config: VmConfig, { id, macAddress, tapFd }: Nic, inherit: Inherit): string[] {
  const netdev = `nic-${id}`;
  const fd = inherit({ tag: "tap", fd: tapFd });
  return [
    ["-netdev", option("tap", { id: netdev, fd })],
    device(config, "virtio-net", {
      netdev,
      mac: macAddress,
      // The boot ROM for booting from the network.
      ...(config.machine === "q35" ? { romfile: "" } : {}),
    }),
  ].flat();
}

function randomness(config: VmConfig): string[] {
  return ["-object", option("rng-builtin", { id: "rng" }), ...device(config, "virtio-rng", { rng: "rng" })];
}

/**
 * Through the balloon, which stays empty, the guest's kernel reports pages that have become free; QEMU gives them back to the host. What
 * a VFIO device may write to is pinned.
 */
function freePages(config: VmConfig): string[] {
  // Of a private mapping QEMU would give back the file's pages.
  if (!hasSpareSlot(config) || (config.hostDevices ?? []).length > 0 || config.memory !== undefined)
    return [];
  return device(config, "virtio-balloon", { "free-page-reporting": "on" });
}

/** A virtio device on the machine's bus. Devices appear in the guest in the order in which they are given. */
function device({ machine: type }: VmConfig, kind: string, properties: Properties): string[] {
  const head = type === "q35" ? `${kind}-pci` : `${kind}-device`;
  // Of virtio-fs there is no legacy form that could be switched off.
  const hasLegacy = type === "q35" && kind !== "vhost-user-fs";
  return ["-device", option(head, hasLegacy ? { ...properties, "disable-legacy": "on" } : properties)];
}
