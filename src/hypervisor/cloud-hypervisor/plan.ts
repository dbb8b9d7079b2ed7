import { checkVmConfig, refuseVmConfig } from "../check-config.ts";
import { vsockSocketName } from "../hypervisor.ts";
import type { VmFile } from "../open-file.ts";
import type { Disk, Nic, Share, VmConfig } from "../vm-config.ts";

/** File names in `VmConfig.directory`, the working directory of Cloud Hypervisor. */
export const apiSocketName = "api.sock";
export const consoleSocketName = "console.sock";

/** The version of Landlock that Cloud Hypervisor asks for; with less it refuses the VM. Linux 6.2 has it. */
export const neededLandlock = 3;

/** Everything that Cloud Hypervisor is told, from a VM's description. */
export interface CloudHypervisorPlan {
  /** Its command line without the program's name. */
  readonly args: readonly string[];
  /** What it gets behind the API's listening socket and the event monitor. */
  readonly inherited: readonly InheritedFile[];
  /** The host's block devices, whose nodes have to be in the folder when the VM boots. */
  readonly blockDevices: readonly Disk[];
  /** Body of `vm.create`. */
  readonly vm: VmBody;
  /** Bodies of `vm.add-net`, each with the descriptor that is sent with it. */
  readonly nets: readonly { readonly body: NetBody; readonly tapFd: number }[];
}

/**
 * Files are opened by us as with QEMU: its user needs no way to the paths. A block device is opened by Cloud Hypervisor itself, by
 * a node of its own in a folder of device nodes that it inherits (`DeviceFolder`).
 */
export type InheritedFile = { readonly tag: "device folder" } | ({ readonly tag: "file" } & VmFile);

/** The parts of the API's `VmConfig` that we set (Cloud Hypervisor, vmm/src/api/openapi/cloud-hypervisor.yaml). */
export interface VmBody {
  readonly cpus: { readonly boot_vcpus: number; readonly max_vcpus: number; readonly nested: false };
  readonly memory: MemoryBody;
  readonly payload: { readonly kernel: string; readonly cmdline: string; readonly initramfs?: string };
  readonly disks: readonly DiskBody[];
  readonly fs?: readonly FsBody[];
  readonly vsock: { readonly cid: number; readonly socket: string };
  readonly rng: { readonly src: string };
  readonly serial: { readonly mode: "Socket"; readonly socket: string };
  readonly console: { readonly mode: "Off" };
  readonly landlock_enable: boolean;
  readonly landlock_rules?: readonly { readonly path: string; readonly access: "rw" }[];
}

interface MemoryBody {
  readonly size: number;
  readonly shared: true;
  readonly hotplug_method?: "VirtioMem";
  readonly hotplug_size?: number;
}

export interface DiskBody {
  readonly id: string;
  readonly serial: string;
  readonly path: string;
  readonly readonly: boolean;
  readonly image_type: "Raw";
}

interface FsBody {
  readonly id: string;
  readonly tag: string;
  readonly socket: string;
  readonly num_queues: number;
  readonly queue_size: number;
}

export interface NetBody {
  readonly id: string;
  readonly mac: string;
  readonly num_queues: number;
  readonly queue_size: number;
}

const apiFd = 3;
const monitorFd = 4;
const firstInheritedFd = 5;
/** Any number from 3 does: the vsock is one of this VM alone. */
const guestCid = 3;
const bytesPerMiB = 1024 ** 2;
/** Memory that a VM may get later is a multiple of this (VIRTIO_MEM_ALIGN_SIZE, virtio-devices/src/mem.rs). */
const growthStepMiB = 128;

/**
 * The command line and the requests, from a VM's description.
 *
 * @throws invalid_argument  the description cannot be said to Cloud Hypervisor
 */
export function planCloudHypervisor(
  config: VmConfig,
  { landlock }: { landlock: boolean },
): CloudHypervisorPlan {
  checkVmConfig(config);
  if ((config.hostDevices ?? []).length > 0)
    refuseVmConfig(config, 'it has PCI devices of the host, which takes QEMU\'s machine "q35"');
  if (config.memory !== undefined) refuseVmConfig(config, "it is to be saved or restored, which takes QEMU");
  if (config.accelerator !== "kvm") refuseVmConfig(config, "Cloud Hypervisor runs with KVM only");
  if (config.vsock.tag !== "hybrid") refuseVmConfig(config, "Cloud Hypervisor serves the vsock itself");
  const inherited: InheritedFile[] = [];
  const inherit = (file: InheritedFile) => `/proc/self/fd/${inherited.push(file) - 1 + firstInheritedFd}`;
  const blockDevices = config.disks.filter(({ isBlockDevice }) => isBlockDevice === true);
  const folder = needsDeviceFolder(config) ? inherit({ tag: "device folder" }) : undefined;
  const diskPath = ({ id, path, readOnly, isBlockDevice }: Disk) =>
    isBlockDevice === true
      ? `${folder}/${id}`
      : inherit({ tag: "file", path, access: readOnly ? "read" : "read-write" });
  return {
    args: [
      ["--api-socket", `fd=${apiFd}`],
      ["--event-monitor", `fd=${monitorFd}`],
      // A thread that makes a system call that is not on its list kills the process.
      ["--seccomp", "true"],
    ].flat(),
    inherited,
    blockDevices,
    vm: {
      cpus: {
        boot_vcpus: config.vcpus,
        max_vcpus: Math.max(config.vcpus, config.growth?.maxVcpus ?? 0),
        nested: false,
      },
      memory: memory(config),
      payload: payload(config, inherit),
      disks: config.disks.map((disk) => diskBody(disk, diskPath(disk))),
      ...(config.shares.length > 0 && { fs: config.shares.map(fsBody) }),
      vsock: { cid: guestCid, socket: local(vsockSocketName) },
      rng: { src: "/dev/urandom" },
      serial: { mode: "Socket", socket: local(consoleSocketName) },
      console: { mode: "Off" },
      landlock_enable: landlock,
      ...(landlock && folder !== undefined && { landlock_rules: [{ path: folder, access: "rw" }] }),
    },
    nets: config.nics.map((nic) => ({ body: netBody(nic), tapFd: nic.tapFd })),
  };
}

/** Where Cloud Hypervisor finds the node of a block device that comes while it runs. */
export function pluggedPath({ id }: Disk): string {
  return `/proc/self/fd/${firstInheritedFd}/${id}`;
}

/** The memory that may come beyond what the VM boots with. */
export function growingMiB({ growth, memoryMiB }: VmConfig): number {
  if (growth === undefined) return 0;
  return Math.floor(Math.max(0, growth.maxMemoryMiB - memoryMiB) / growthStepMiB) * growthStepMiB;
}

type Inherit = (file: InheritedFile) => string;

/** It is the first thing that is inherited then. */
function needsDeviceFolder({ disks, growth }: VmConfig): boolean {
  return growth !== undefined || disks.some(({ isBlockDevice }) => isBlockDevice === true);
}

function memory(config: VmConfig): MemoryBody {
  const moreMiB = growingMiB(config);
  return {
    size: config.memoryMiB * bytesPerMiB,
    // Shared, because virtiofsd maps it.
    shared: true,
    ...(moreMiB > 0 && { hotplug_method: "VirtioMem", hotplug_size: moreMiB * bytesPerMiB }),
  };
}

/** With a folder in front: Landlock's rule for a socket that is yet to be made is one for its folder. */
function local(name: string): string {
  return `./${name}`;
}

function payload({ kernel }: VmConfig, inherit: Inherit): VmBody["payload"] {
  const file = (path: string) => inherit({ tag: "file", path, access: "read" });
  return {
    kernel: file(kernel.path),
    cmdline: kernel.commandLine,
    ...(kernel.initrdPath !== undefined && { initramfs: file(kernel.initrdPath) }),
  };
}

/** A disk of the guest, at a path that Cloud Hypervisor can open. */
export function diskBody({ id, readOnly }: Disk, path: string): DiskBody {
  // Its type is named, so that nobody looks into a guest's bytes to find out.
  return { id: `disk-${id}`, serial: id, path, readonly: readOnly, image_type: "Raw" };
}

function fsBody({ tag, socketName }: Share, index: number): FsBody {
  return { id: `share${index}`, tag, socket: local(socketName), num_queues: 1, queue_size: 1024 };
}

export function netBody({ id, macAddress }: Nic): NetBody {
  // One pair, receive and transmit: our taps have one queue.
  return { id: `nic-${id}`, mac: macAddress, num_queues: 2, queue_size: 256 };
}
