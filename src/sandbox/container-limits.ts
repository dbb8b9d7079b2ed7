import { positiveInteger } from "../oci/pod-resources.ts";

/** What a container may take. A property that is there and undefined: no limit. */
export interface ContainerLimits {
  readonly memoryBytes?: number | undefined;
  /** CPUs' worth of time. */
  readonly cpus?: number | undefined;
}

const defaultPeriodMicros = 100_000;

/** The limits that OCI `LinuxResources` say, of a specification or an update; what they do not say is left out. */
export function limitsOf(resources: { readonly memory?: unknown; readonly cpu?: unknown }): ContainerLimits {
  const limit = property(resources.memory, "limit");
  const quota = property(resources.cpu, "quota");
  const period = positiveInteger(property(resources.cpu, "period")) ?? defaultPeriodMicros;
  const quotaMicros = positiveInteger(quota);
  return {
    ...(isSaid(limit) && { memoryBytes: positiveInteger(limit) }),
    ...(isSaid(quota) && { cpus: quotaMicros === undefined ? undefined : quotaMicros / period }),
  };
}

function property(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null
    ? (value as Readonly<Record<string, unknown>>)[name]
    : undefined;
}

/** 0 leaves a limit as it is (OCI runtimes write it for what was not asked for). */
function isSaid(value: unknown): boolean {
  return value !== undefined && value !== null && value !== 0;
}
