import { RuntimeError } from "../base/errors.ts";
import { type Json, parseStrictJson } from "../base/strict-json.ts";
import { type ContainerLimits, limitsOf } from "./container-limits.ts";

/** A change of a container's resources. */
export interface Update {
  readonly limits: ContainerLimits;
  /** For the guest: OCI `LinuxResources`. */
  readonly resourcesJson: Buffer;
}

/**
 * Reads OCI `LinuxResources` of an update: what has no meaning in a guest is left out, as at creation.
 *
 * @throws invalid_argument  not an object
 */
export function planUpdate(linuxResourcesJson: Uint8Array, containerId: string): Update {
  const what = `the resources for container "${containerId}"`;
  const resources = parseStrictJson(linuxResourcesJson, what);
  if (!isObject(resources))
    throw new RuntimeError("invalid_argument", `Cannot read ${what}: expected an object`);
  const { cpu, memory, pids, unified, hugepageLimits } = resources;
  const wanted = { cpu: guestCpu(cpu), memory, pids, unified, hugepageLimits };
  return { limits: limitsOf({ memory, cpu }), resourcesJson: Buffer.from(JSON.stringify(wanted)) };
}

/** The guest's CPUs are its own: cpusets of the host name others. */
function guestCpu(cpu: Json | undefined): Json | undefined {
  if (!isObject(cpu)) return undefined;
  const { cpus: _cpus, mems: _mems, ...kept } = cpu;
  return kept;
}

export interface MemoryNow {
  /** What the VM has, and the most that it can have. */
  readonly vmMiB: number;
  readonly mostMiB: number;
  /** What the container uses and the guest's kernel cannot reclaim. */
  readonly heldBytes: number;
}

/** @throws resource_exhausted  more memory than the VM can have, or less than the container can come down to */
export function checkMemoryLimit(
  { memoryBytes }: ContainerLimits,
  containerId: string,
  { vmMiB, mostMiB, heldBytes }: MemoryNow,
): void {
  if (memoryBytes === undefined) return;
  const refuse = (fact: string) =>
    new RuntimeError(
      "resource_exhausted",
      `Cannot set the memory limit of container "${containerId}" to ${memoryBytes} bytes: ${fact}`,
    );
  if (memoryBytes > mostMiB * 1024 ** 2) {
    throw refuse(
      mostMiB > vmMiB
        ? `its VM has ${vmMiB} MiB and can have at most ${mostMiB} MiB; create it anew with the larger limit, or set "max_memory_mib"`
        : `its VM has ${vmMiB} MiB and its machine type cannot grow; create it anew with the larger limit`,
    );
  }
  // The kernel would make room by killing (cgroup-v2, memory.max).
  if (memoryBytes < heldBytes) throw refuse(`it holds ${heldBytes} bytes that it cannot give back`);
}

function isObject(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
