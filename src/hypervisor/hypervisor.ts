import type { DaemonExit } from "../base/daemon.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import type { VmConfig, VsockTransport } from "./vm-config.ts";

/** File name in `VmConfig.directory` of the hybrid vsock socket (host dials it and says `CONNECT <port>`). */
export const vsockSocketName = "vsock";

/** A driver: turns a complete description into a running VM. */
export interface Hypervisor {
  readonly name: "qemu" | "cloud-hypervisor";
  /** The vsock devices that it can give a guest, best first. */
  readonly vsockTransports: readonly VsockTransport[];
  /**
   * Starts the VMM (and the vsock backend that it needs) and returns when the guest's CPUs run. The guest's readiness
   * is not waited for: listen before calling this, on `<directory>/vsock_1026` where the vsock is a hybrid one.
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
  /** Waits up to `graceMs` for the guest, which was asked to power off, then kills. Resolves when all is reaped. */
  stop(options: { graceMs: number }): Promise<void>;
}

export interface VmExit {
  readonly reason: string;
  readonly exit: DaemonExit;
}
