/** What the guest's kernel command line depends on. */
export interface KernelParams {
  /** The initrd finds the root itself; without one the kernel has to be told. */
  readonly hasInitrd: boolean;
  /** Frequency of the host's TSC, given under TCG only (KVM tells it the guest through kvmclock). */
  readonly tscKhz?: number;
  /** The port of the host that the agent says it is ready on, where it is not the usual one. */
  readonly readyPort?: number;
  /** Memory may come while it runs. */
  readonly canGrow?: boolean;
  /** The agent's debug log goes to the console. */
  readonly debugAgent: boolean;
}

/** QEMU's emulated local APIC counts the nanoseconds of the virtual clock. */
const tcgLapicTimerHz = 1_000_000_000;

/**
 * The kernel command line that `docs/design.md` promises to the guest. It can be read by everybody in the guest, so
 * it never holds a secret. On the microvm machine without ACPI, QEMU appends `virtio_mmio.device=…` by itself.
 */
export function formatKernelParams({
  hasInitrd,
  tscKhz,
  readyPort,
  canGrow,
  debugAgent,
}: KernelParams): string {
  return [
    "console=ttyS0",
    // A triple fault ends a VM on every machine; microvm has no keyboard controller or ACPI reset to do it with.
    "reboot=t",
    "panic=-1",
    "quiet",
    // Under TCG the calibration against the PIT fails now and then, and the guest then hangs for ever; the check of the
    // timer behind the IO-APIC fails likewise on a busy host (5 of 20 boots), and the guest panics.
    ...(tscKhz === undefined ? [] : [`tsc_early_khz=${tscKhz}`, "tsc=reliable", "no_timer_check"]),
    // Else it is measured, for 200 ms; the tuned kernel has this parameter.
    ...(tscKhz === undefined ? [] : [`lapic_timer_hz=${tcgLapicTimerHz}`]),
    // A kernel on one CPU takes the locks out of its own code, which takes TCG a seventh of the boot; they cost nothing there.
    ...(tscKhz === undefined ? [] : ["noreplace-smp"]),
    ...(hasInitrd ? [] : ["root=/dev/vda", "rootfstype=erofs", "ro", "init=/sbin/caisson-agent"]),
    ...(readyPort === undefined ? [] : [`caisson.ready_port=${readyPort}`]),
    // Memory that comes is used at once. That it could lie above 4 GiB would have the kernel set 64 MiB aside for devices that do
    // not reach there, which virtio's do.
    ...(canGrow ? ["memhp_default_state=online", "swiotlb=noforce"] : []),
    ...(debugAgent ? ["caisson.log=debug"] : []),
  ].join(" ");
}
