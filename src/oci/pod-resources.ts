import { RuntimeError } from "../base/errors.ts";
import { isRawNumber, parseStrictJson } from "../base/strict-json.ts";
import type { Spec } from "./spec.ts";

/** What the containers of a sandbox may take together. Undefined: no limit. */
export interface PodResources {
  readonly memoryBytes: number | undefined;
  /** Microseconds of CPU time in each period. */
  readonly cpuQuotaMicros: number | undefined;
  readonly cpuPeriodMicros: number;
  /** Weight among others, 1024 for each CPU that is asked for. */
  readonly cpuShares: number | undefined;
}

const defaultPeriodMicros = 100_000;
/** More than the document of CRI-O ever has. */
const maxTextLength = 4_096;

/**
 * The resources of the sandbox that a specification is the first of: by the annotations of containerd's CRI plugin or of
 * CRI-O, where they are, which speak of the whole pod; else the limits of the specification itself.
 *
 * @throws invalid_argument  an annotation that is not what its author writes
 */
export function podResources(spec: Spec): PodResources {
  const { annotations = {} } = spec;
  return fromContainerd(annotations) ?? fromCrio(annotations) ?? fromSpec(spec);
}

const containerdPrefix = "io.kubernetes.cri.sandbox-";

/** A decimal number each, 0 for none (pkg/cri/annotations of containerd). */
function fromContainerd(annotations: Readonly<Record<string, string>>): PodResources | undefined {
  const read = (name: string) => {
    const text = annotations[`${containerdPrefix}${name}`];
    if (text === undefined) return undefined;
    if (!/^-?\d{1,19}$/.test(text)) throw wrong(`${containerdPrefix}${name}`, text, "a decimal number");
    return Number(text);
  };
  const [memory, quota, period, shares] = ["memory", "cpu-quota", "cpu-period", "cpu-shares"].map(read);
  if (memory === undefined && quota === undefined && shares === undefined) return undefined;
  return resourcesOf({ memory, quota, period, shares });
}

const crioName = "io.kubernetes.cri-o.PodLinuxResources";

/** JSON of CRI's `LinuxContainerResources` (pkg/annotations of CRI-O). */
function fromCrio(annotations: Readonly<Record<string, string>>): PodResources | undefined {
  const text = annotations[crioName];
  if (text === undefined) return undefined;
  if (text.length > maxTextLength) throw wrong(crioName, text, `at most ${maxTextLength} characters`);
  const document = parseStrictJson(Buffer.from(text), `the annotation "${crioName}"`);
  if (typeof document !== "object" || document === null || Array.isArray(document))
    throw wrong(crioName, text, "an object");
  const fields = document as Readonly<Record<string, unknown>>;
  return resourcesOf({
    memory: fields["memory_limit_in_bytes"],
    quota: fields["cpu_quota"],
    period: fields["cpu_period"],
    shares: fields["cpu_shares"],
  });
}

function fromSpec(spec: Spec): PodResources {
  const { memory, cpu } = spec.linux?.resources ?? {};
  return resourcesOf({ memory: memory?.limit, quota: cpu?.quota, period: cpu?.period });
}

function resourcesOf(values: {
  readonly memory: unknown;
  readonly quota: unknown;
  readonly period: unknown;
  readonly shares?: unknown;
}): PodResources {
  return {
    memoryBytes: positiveInteger(values.memory),
    cpuQuotaMicros: positiveInteger(values.quota),
    cpuPeriodMicros: positiveInteger(values.period) ?? defaultPeriodMicros,
    cpuShares: positiveInteger(values.shares),
  };
}

/** A set limit; -1, 0 and integers beyond 2^53 all mean unlimited. */
export function positiveInteger(value: unknown): number | undefined {
  if (value === undefined || value === null || isRawNumber(value)) return undefined;
  if (typeof value !== "number" || !Number.isInteger(value) || value <= 0) return undefined;
  // What containerd and Docker write for "no limit" on a 4 KiB page machine.
  return value >= Number.MAX_SAFE_INTEGER ? undefined : value;
}

function wrong(name: string, text: string, expected: string): RuntimeError {
  const shown = JSON.stringify(text.slice(0, 100));
  return new RuntimeError(
    "invalid_argument",
    `Cannot use the annotation "${name}": its value is ${shown}, expected ${expected}`,
  );
}
