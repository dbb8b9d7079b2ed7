import { cpus, totalmem } from "node:os";
import { isRawNumber } from "../base/strict-json.ts";
import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import type { Spec } from "../oci/spec.ts";

export interface VmSize {
  readonly vcpus: number;
  readonly memoryMiB: number;
}

export interface Host {
  readonly cpuCount: number;
  readonly memoryMiB: number;
}

/** What this host has. */
export function thisHost(): Host {
  return { cpuCount: cpus().length, memoryMiB: Math.floor(totalmem() / 1024 ** 2) };
}

/**
 * The size of the VM for a container: what is configured for the sandbox, else the container's limits, or the defaults,
 * plus the overhead for the guest's own kernel and agent.
 *
 * @throws invalid_argument  a limit below what a container can start with, above what the host has, or above the size
 *                           that is configured
 */
export function sizeOf(spec: Spec, config: Config, host: Host): VmSize {
  const limitBytes = positiveInteger(spec.linux?.resources?.memory?.limit);
  return { vcpus: vcpusOf(spec, config, host), memoryMiB: memoryOf(limitBytes, config, host) };
}

// Below this crun itself does not get through its set-up.
const minLimitBytes = 4 * 1024 ** 2;

function memoryOf(limitBytes: number | undefined, config: Config, host: Host): number {
  if (config.memoryMiB > host.memoryMiB) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot size the VM: ${config.memoryMiB} MiB are asked for, this host has ${host.memoryMiB} MiB`,
    );
  }
  if (limitBytes === undefined) return config.memoryMiB || config.defaultMemoryMiB;
  const refuse = (fact: string) =>
    new RuntimeError(
      "invalid_argument",
      `Cannot size the VM: the memory limit of ${limitBytes} bytes is ${fact}`,
    );
  if (limitBytes < minLimitBytes) throw refuse(`below the minimum of ${minLimitBytes} bytes`);
  const memoryMiB = Math.ceil(limitBytes / 1024 ** 2) + config.memoryOverheadMiB;
  if (config.memoryMiB > 0) {
    if (memoryMiB <= config.memoryMiB) return config.memoryMiB;
    throw refuse(`with ${config.memoryOverheadMiB} MiB for the guest above its ${config.memoryMiB} MiB`);
  }
  if (memoryMiB > host.memoryMiB) throw refuse(`above the ${host.memoryMiB} MiB of this host`);
  return memoryMiB;
}

function vcpusOf(spec: Spec, config: Config, host: Host): number {
  if (config.vcpus > 0) return Math.min(config.vcpus, config.maxVcpus);
  const quota = positiveInteger(spec.linux?.resources?.cpu?.quota);
  const period = positiveInteger(spec.linux?.resources?.cpu?.period) ?? 100_000;
  const wanted = quota === undefined ? config.defaultVcpus : Math.ceil(quota / period);
  return Math.max(1, Math.min(wanted, config.maxVcpus, host.cpuCount));
}

/** A set limit; -1, 0 and integers beyond 2^53 all mean unlimited. */
function positiveInteger(value: unknown): number | undefined {
  if (value === undefined || value === null || isRawNumber(value)) return undefined;
  if (typeof value !== "number" || !Number.isInteger(value) || value <= 0) return undefined;
  // What containerd and Docker write for "no limit" on a 4 KiB page machine.
  return value >= Number.MAX_SAFE_INTEGER ? undefined : value;
}
