import { readFile } from "node:fs/promises";
import { ignore } from "../base/files.ts";

/** What of the host's CPU decides how a VM is run. */
export interface HostCpu {
  /** The CPU has `vmx` or `svm`. Says nothing on other architectures than x86. */
  readonly hasVirtualization: boolean;
  /** Frequency of the time stamp counter; undefined where the host does not say (not x86). */
  readonly tscKhz: number | undefined;
}

/** Reads it from /proc and /sys. */
export async function readHostCpu(): Promise<HostCpu> {
  const [cpuinfo, baseFrequency] = await Promise.all([
    readFile("/proc/cpuinfo", "utf8"),
    readFile("/sys/devices/system/cpu/cpu0/cpufreq/base_frequency", "utf8").catch(ignore("ENOENT")),
  ]);
  return parseHostCpu(cpuinfo, baseFrequency);
}

/**
 * Parses /proc/cpuinfo and, where there is one, cpufreq's `base_frequency` (kHz).
 *
 * The TSC runs at the base frequency. `cpu MHz` is the same on hosts without cpufreq (most VMs); with cpufreq it is
 * the momentary clock of the core, which would make the guest's clock run too fast or too slow.
 */
export function parseHostCpu(cpuinfo: string, baseFrequency?: string): HostCpu {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(" ") ?? [];
  const mhz = Number(/^cpu MHz\s*:\s*([\d.]+)\s*$/m.exec(cpuinfo)?.[1]);
  const baseKhz = Number(baseFrequency);
  const tscKhz = baseKhz > 0 ? baseKhz : Math.round(mhz * 1000);
  return {
    hasVirtualization: flags.includes("vmx") || flags.includes("svm"),
    tscKhz: tscKhz > 0 ? tscKhz : undefined,
  };
}
