import { cpus, totalmem } from "node:os";
import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import type { Growth } from "../hypervisor/vm-config.ts";
import { type PodResources, podResources } from "../oci/pod-resources.ts";
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
 * The size of the VM for a sandbox: what is configured for it, else the limits of the pod or of the container that it is made
 * for, or the defaults, plus the overhead for the guest's own kernel and agent.
 *
 * @throws invalid_argument  a limit below what a container can start with, above what the host has, or above the size
 *                           that is configured; an annotation that cannot be read
 */
export function sizeOf(spec: Spec, config: Config, host: Host): VmSize {
  const resources = podResources(spec);
  return {
    vcpus: vcpusOf(resources, config, host),
    memoryMiB: memoryOf(resources.memoryBytes, config, host),
  };
}

/**
 * What a VM of this size may grow to: what the configuration and the host allow. A size that is configured for the sandbox stays.
 */
export function growthOf({ vcpus, memoryMiB }: VmSize, config: Config, host: Host): Growth {
  const mostVcpus = config.vcpus > 0 ? vcpus : Math.min(config.maxVcpus, host.cpuCount);
  const mostMiB =
    config.memoryMiB > 0 ? memoryMiB : Math.min(config.maxMemoryMiB || host.memoryMiB, host.memoryMiB);
  return { maxVcpus: Math.max(vcpus, mostVcpus), maxMemoryMiB: Math.max(memoryMiB, mostMiB) };
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

/** One CPU's worth of shares, as CRI counts. */
const sharesOfCpu = 1_024;

function vcpusOf(resources: PodResources, config: Config, host: Host): number {
  if (config.vcpus > 0) return Math.min(config.vcpus, config.maxVcpus);
  const { cpuQuotaMicros, cpuPeriodMicros, cpuShares = 0 } = resources;
  // A pod without a limit gets at least what it asks for.
  const wanted =
    cpuQuotaMicros === undefined
      ? Math.max(config.defaultVcpus, Math.ceil(cpuShares / sharesOfCpu))
      : Math.ceil(cpuQuotaMicros / cpuPeriodMicros);
  return Math.max(1, Math.min(wanted, config.maxVcpus, host.cpuCount));
}
