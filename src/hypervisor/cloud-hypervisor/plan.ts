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
  /** What it gets as fd 5 and up, opened by us as with QEMU: its user needs no way to the paths; behind the API's listening socket and the event monitor. */
  readonly files: readonly VmFile[];
  /** Body of `vm.create`. */
  readonly vm: VmBody;
  /** Bodies of `vm.add-net`, each with the descriptor that is sent with it. */
  readonly nets: readonly { readonly body: NetBody; readonly tapFd: number }[];
}

/** The parts of the API's `VmConfig` that we set (Cloud Hypervisor, vmm/src/api/openapi/cloud-hypervisor.yaml). */
export interface VmBody {
  readonly cpus: { readonly boot_vcpus: number; readonly max_vcpus: number; readonly nested: false };
  readonly memory: { readonly size: number; readonly shared: true };
  readonly payload: { readonly kernel: string; readonly cmdline: string; readonly initramfs?: string };
  readonly disks: readonly DiskBody[];
  readonly fs?: readonly FsBody[];
  readonly vsock: { readonly cid: number; readonly socket: string };
  readonly rng: { readonly src: string };
  readonly serial: { readonly mode: "Socket"; readonly socket: string };
  readonly console: { readonly mode: "Off" };
  readonly landlock_enable: boolean;
}

interface DiskBody {
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
const firstFileFd = 5;
/** Any number from 3 does: the vsock is one of this VM alone. */
const guestCid = 3;
const bytesPerMiB = 1024 ** 2;

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
  if (config.accelerator !== "kvm") refuseVmConfig(config, "Cloud Hypervisor runs with KVM only");
  if (config.vsock.tag !== "hybrid") refuseVmConfig(config, "Cloud Hypervisor serves the vsock itself");
  if (config.disks.some(({ isBlockDevice }) => isBlockDevice === true))
    refuseVmConfig(config, "Cloud Hypervisor opens disks as its own user, which may not open block devices");
  const files: VmFile[] = [];
  const inherit: Inherit = (path, access) =>
    `/proc/self/fd/${files.push({ path, access }) - 1 + firstFileFd}`;
  return {
    args: [
      ["--api-socket", `fd=${apiFd}`],
      ["--event-monitor", `fd=${monitorFd}`],
      // A thread that makes a system call that is not on its list kills the process.
      ["--seccomp", "true"],
    ].flat(),
    files,
    vm: {
      cpus: { boot_vcpus: config.vcpus, max_vcpus: config.vcpus, nested: false },
      // Shared, because virtiofsd maps it.
      memory: { size: config.memoryMiB * bytesPerMiB, shared: true },
      payload: payload(config, inherit),
      disks: config.disks.map((disk) => diskBody(disk, inherit)),
      ...(config.shares.length > 0 && { fs: config.shares.map(fsBody) }),
      vsock: { cid: guestCid, socket: local(vsockSocketName) },
      rng: { src: "/dev/urandom" },
      serial: { mode: "Socket", socket: local(consoleSocketName) },
      console: { mode: "Off" },
      landlock_enable: landlock,
    },
    nets: config.nics.map((nic) => ({ body: netBody(nic), tapFd: nic.tapFd })),
  };
}

type Inherit = (path: string, access: VmFile["access"]) => string;

/** With a folder in front: Landlock's rule for a socket that is yet to be made is one for its folder. */
function local(name: string): string {
  return `./${name}`;
}

function payload({ kernel }: VmConfig, inherit: Inherit): VmBody["payload"] {
  return {
    kernel: inherit(kernel.path, "read"),
    cmdline: kernel.commandLine,
    ...(kernel.initrdPath !== undefined && { initramfs: inherit(kernel.initrdPath, "read") }),
  };
}

function diskBody({ id, path, readOnly }: Disk, inherit: Inherit): DiskBody {
  // Named, so that nobody looks into a guest's bytes to find out.
  return {
    id: `disk-${id}`,
    serial: id,
    path: inherit(path, readOnly ? "read" : "read-write"),
    readonly: readOnly,
    image_type: "Raw",
  };
}

function fsBody({ tag, socketName }: Share, index: number): FsBody {
  return { id: `share${index}`, tag, socket: local(socketName), num_queues: 1, queue_size: 1024 };
}

function netBody({ id, macAddress }: Nic): NetBody {
  // One pair, receive and transmit: our taps have one queue.
  return { id: `nic-${id}`, mac: macAddress, num_queues: 2, queue_size: 256 };
}
