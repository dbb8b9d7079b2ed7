/**
 * Everything a driver needs to boot a VM, collected before anything is started. Plain data; paths are absolute
 * unless stated otherwise.
 */
export interface VmConfig {
  readonly sandboxId: string;
  /**
   * Private directory of this VM (mode 0700, owned by `user`): sockets of the VMM and its helpers are made in it.
   */
  readonly directory: string;
  /** Unprivileged user of the VMM and its helpers, of this sandbox alone. */
  readonly user: { readonly uid: number; readonly gid: number };
  readonly machine: "microvm" | "q35";
  readonly accelerator: "kvm" | "tcg";
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** Where the memory lies; undefined: in a file of the VMM's own. */
  readonly memory?: VmMemory;
  readonly kernel: Kernel;
  /** In the order in which the guest sees them; the first is the guest image. */
  readonly disks: readonly Disk[];
  readonly shares: readonly Share[];
  readonly nics: readonly Nic[];
  /** PCI devices of the host that the guest gets as its own. */
  readonly hostDevices?: readonly HostDevice[];
  readonly vsock: VsockDevice;
  /** Room for what the VM is given while it runs; undefined: it keeps what it boots with. */
  readonly growth?: Growth;
  /** Network namespace that the VMM runs in, or undefined to stay in ours. */
  readonly netnsPath?: string;
}

/** Descriptors are those of files in memory (memfd_create(2)), and stay the caller's. */
export type VmMemory =
  /** `fd` is a file of `memoryMiB` that is the guest's memory, and has it when the VM was saved. */
  | { readonly tag: "kept"; readonly fd: number }
  /**
   * The VM goes on as the one that was saved: with a copy on write of the memory in `fd`, and its devices as `stateFd` has them. All
   * else in the description says what that one's said, but for its vsock and what is behind its network cards, whose MAC addresses are the
   * saved ones.
   */
  | { readonly tag: "restored"; readonly fd: number; readonly stateFd: number };

/** Beside its size there is room for some devices (`RunningVm.plug`). */
export interface Growth {
  /** At least the `vcpus` that it boots with. */
  readonly maxVcpus: number;
  /** At least the `memoryMiB` that it boots with, which count. */
  readonly maxMemoryMiB: number;
}

export interface Kernel {
  /** Uncompressed vmlinux with a PVH note. */
  readonly path: string;
  readonly initrdPath?: string;
  readonly commandLine: string;
  /** The kernel finds virtio-mmio devices through ACPI (Debian's stock kernel) and not on its command line. */
  readonly acpi: boolean;
}

export interface Disk {
  /** Is also its serial number, by which the guest finds it. */
  readonly id: string;
  /** Raw image or block device; its format is never probed. */
  readonly path: string;
  readonly readOnly: boolean;
  /** A block device of the host, no image file. */
  readonly isBlockDevice?: boolean;
  /** Read by the VMs of every hypervisor at once, and written by nobody: QEMU's locks and Cloud Hypervisor's do not agree. */
  readonly isShared?: boolean;
}

export interface Share {
  readonly tag: string;
  /** File name in `VmConfig.directory` of a vhost-user socket that virtiofsd listens on already. */
  readonly socketName: string;
}

export interface Nic {
  readonly id: string;
  readonly macAddress: string;
  /** File descriptor of an attached tap device (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR); the caller closes its own copy. */
  readonly tapFd: number;
}

/** A PCI device of the host, bound to vfio-pci. */
export interface HostDevice {
  /** As the kernel writes it: "0000:65:00.0". */
  readonly address: string;
  /** Its IOMMU group, whose `/dev/vfio/<group>` the VMM opens. */
  readonly group: number;
}

/** The device through which guest and host reach each other. */
export type VsockDevice =
  /**
   * Served by the host's kernel: the guest is `cid` in the host's AF_VSOCK. `fd` is an open /dev/vhost-vsock that has
   * taken the CID; the caller closes its own copy.
   */
  | { readonly tag: "vhost-vsock"; readonly cid: number; readonly fd: number }
  /** Served by a process of that name, which makes the hybrid socket (`vsockSocketName`). */
  | { readonly tag: "vhost-device-vsock" }
  /** Served by the VMM itself, which makes the hybrid socket. */
  | { readonly tag: "hybrid" };

export type VsockTransport = VsockDevice["tag"];
