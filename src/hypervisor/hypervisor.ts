import type { DaemonExit } from "../base/daemon.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import type { Disk, Nic, VmConfig, VsockTransport } from "./vm-config.ts";

/** File name in `VmConfig.directory` of the hybrid vsock socket (host dials it and says `CONNECT <port>`). */
export const vsockSocketName = "vsock";

/** A driver: turns a complete description into a running VM. */
export interface Hypervisor {
  readonly name: "qemu" | "cloud-hypervisor";
  /** The vsock devices that it can give a guest, best first. */
  readonly vsockTransports: readonly VsockTransport[];
  /**
   * Starts the VMM (and the vsock backend that it needs) and returns when the guest's CPUs run. The guest's readiness
   * is not waited for: listen before calling this, on `<directory>/vsock_1026` where the vsock is a hybrid one. The signal is
   * all that limits the start: with a device of the host all memory is pinned first, which takes as long as there is memory.
   *
   * `onProcess` is told of every process right after it was started, to be journalled. On failure nothing is left.
   *
   * @throws not_found     the VMM's program is not installed
   * @throws unavailable   it ended at once; the message has its last words
   * @throws invalid_argument, canceled, deadline_exceeded
   */
  boot(config: VmConfig, options: BootOptions): Promise<RunningVm>;
}

export interface BootOptions {
  readonly signal: AbortSignal;
  readonly onProcess: (name: string, identity: ProcessIdentity) => void;
}

/** A booted VM, owned by the caller of `boot`. Safe for concurrent calls. Disposing kills it. */
export interface RunningVm extends AsyncDisposable {
  /** The VMM's process. */
  readonly identity: ProcessIdentity;
  /**
   * Resolves when the VMM or a helper that the VM cannot live without has ended, with words for a message
   * ("QEMU was killed by SIGKILL"). The rest of the VM has been killed then. Never rejects.
   */
  readonly exited: Promise<VmExit>;
  /** Processes that belong to the VM, by name, for accounting. */
  readonly processes: ReadonlyMap<string, ProcessIdentity>;
  /** The end of the guest's console, at most 64 KiB, unescaped. */
  consoleTail(): string;
  /**
   * Gives the running VM a disk or a network card; the guest sees it a moment later. A descriptor in it stays the caller's.
   *
   * @throws unimplemented       this machine takes no device while it runs
   * @throws resource_exhausted  it has no slot left
   */
  plug(device: HotplugDevice): Promise<void>;
  /**
   * Takes a device away that was plugged, by its id. What is behind it on the host is released also when the guest does not
   * let go of the device, which then fails all that the guest does with it (Cloud Hypervisor keeps it open until the guest lets go).
   *
   * @throws deadline_exceeded  the guest keeps the device, and its slot
   * @throws not_found          there is none of this id
   */
  unplug(id: string): Promise<void>;
  /**
   * Grows the VM; what it has beyond the given size it keeps. Returns when the guest has taken the memory; new CPUs have to be
   * brought online in it.
   *
   * @throws unimplemented       this machine keeps the size that it boots with
   * @throws resource_exhausted  more than `Growth` says, or more memory than the guest takes
   */
  resize(size: { readonly vcpus: number; readonly memoryMiB: number }): Promise<void>;
  /**
   * Stops the guest for good and writes the state of its devices to the file `stateFd`. With its memory, which `VmConfig.memory` has kept, it
   * is what another VM can be restored from once this one has ended.
   *
   * @throws unimplemented        this hypervisor does not save
   * @throws failed_precondition  one of the devices cannot be saved, or the memory was not kept
   */
  save(stateFd: number, signal: AbortSignal): Promise<void>;
  /** Waits up to `graceMs` for the guest, which was asked to power off, then kills. Resolves when all is reaped. */
  stop(options: { graceMs: number }): Promise<void>;
}

export type HotplugDevice =
  | { readonly tag: "disk"; readonly disk: Disk }
  | { readonly tag: "nic"; readonly nic: Nic };

export interface VmExit {
  readonly reason: string;
  readonly exit: DaemonExit;
}
