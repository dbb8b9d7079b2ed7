import { RuntimeError } from "../base/errors.ts";
import { type Json, parseStrictJson } from "../base/strict-json.ts";

export interface MemoryNow {
  /** What the VM has. */
  readonly vmMiB: number;
  /** What the container uses and the guest's kernel cannot reclaim. */
  readonly heldBytes: number;
}

/**
 * The limits to set in the guest, from OCI `LinuxResources` of an update: what has no meaning in a guest is left out, as
 * at creation.
 *
 * @throws invalid_argument    not an object
 * @throws resource_exhausted  more memory than the VM has, or less than the container cannot give back
 */
export function planUpdate(
  linuxResourcesJson: Uint8Array,
  containerId: string,
  memoryNow: MemoryNow,
): Buffer {
  const what = `the resources for container "${containerId}"`;
  const resources = parseStrictJson(linuxResourcesJson, what);
  if (!isObject(resources))
    throw new RuntimeError("invalid_argument", `Cannot read ${what}: expected an object`);
  const { cpu, memory, pids, unified, hugepageLimits } = resources;
  checkMemory(memory, containerId, memoryNow);
  const wanted = { cpu: guestCpu(cpu), memory, pids, unified, hugepageLimits };
  return Buffer.from(JSON.stringify(wanted));
}

/** The guest's CPUs are its own: cpusets of the host name others. */
function guestCpu(cpu: Json | undefined): Json | undefined {
  if (!isObject(cpu)) return undefined;
  const { cpus: _cpus, mems: _mems, ...kept } = cpu;
  return kept;
}

function checkMemory(memory: Json | undefined, containerId: string, { vmMiB, heldBytes }: MemoryNow): void {
  const limit = isObject(memory) ? memory["limit"] : undefined;
  // -1 and integers beyond 2^53 mean unlimited: the VM's size then is the limit.
  if (typeof limit !== "number" || limit < 0) return;
  const refuse = (fact: string) =>
    new RuntimeError(
      "resource_exhausted",
      `Cannot set the memory limit of container "${containerId}" to ${limit} bytes: ${fact}`,
    );
  if (limit > vmMiB * 1024 ** 2) {
    throw refuse(
      `its VM has ${vmMiB} MiB and its machine type cannot grow; create it anew with the larger limit`,
    );
  }
  // The kernel would make room by killing (cgroup-v2, memory.max).
  if (limit < heldBytes) throw refuse(`it holds ${heldBytes} bytes that it cannot give back`);
}

function isObject(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
