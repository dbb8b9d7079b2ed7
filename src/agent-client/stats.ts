import type Long from "long";
import type { caisson } from "../gen/agent.js";

type GetStatsResponse = caisson.agent.v1.GetStatsResponse;
type Counter = Long | number | null | undefined;

/** Usage of one container's cgroup (version 2) in the guest, as plain numbers. Limits are undefined when unlimited. */
export interface GuestStats {
  readonly cpu: {
    readonly usageMicros: number;
    readonly userMicros: number;
    readonly systemMicros: number;
    readonly periods: number;
    readonly throttledPeriods: number;
    readonly throttledMicros: number;
  };
  readonly memory: {
    readonly usageBytes: number;
    readonly limitBytes: number | undefined;
    readonly swapUsageBytes: number;
    readonly swapLimitBytes: number | undefined;
    readonly peakBytes: number;
    readonly stat: ReadonlyMap<string, number>;
    readonly events: ReadonlyMap<string, number>;
  };
  readonly pids: { readonly current: number; readonly limit: number | undefined };
  readonly io: readonly {
    readonly major: number;
    readonly minor: number;
    readonly readBytes: number;
    readonly writeBytes: number;
    readonly readOperations: number;
    readonly writeOperations: number;
  }[];
  readonly network: readonly {
    readonly name: string;
    readonly rxBytes: number;
    readonly rxPackets: number;
    readonly rxErrors: number;
    readonly rxDropped: number;
    readonly txBytes: number;
    readonly txPackets: number;
    readonly txErrors: number;
    readonly txDropped: number;
  }[];
}

/** Fields of memory.stat are about 60; devices and links of a guest are a handful. The guest may say anything. */
const maxFields = 128;
const maxDevices = 32;

/** The guest's answer as plain numbers: bounded lists, and counters that a number can hold. */
export function toGuestStats(response: GetStatsResponse): GuestStats {
  const { cpu, memory, pids } = response;
  return {
    cpu: {
      usageMicros: counter(cpu?.usageUsec),
      userMicros: counter(cpu?.userUsec),
      systemMicros: counter(cpu?.systemUsec),
      periods: counter(cpu?.nrPeriods),
      throttledPeriods: counter(cpu?.nrThrottled),
      throttledMicros: counter(cpu?.throttledUsec),
    },
    memory: {
      usageBytes: counter(memory?.usageBytes),
      limitBytes: limit(memory?.limitBytes),
      swapUsageBytes: counter(memory?.swapUsageBytes),
      swapLimitBytes: limit(memory?.swapLimitBytes),
      peakBytes: counter(memory?.peakBytes),
      stat: fields(memory?.stat),
      events: fields(memory?.events),
    },
    pids: {
      current: counter(pids?.current),
      limit: counter(pids?.limit) === 0 ? undefined : counter(pids?.limit),
    },
    io: response.io.slice(0, maxDevices).map((device) => ({
      major: counter(device.major),
      minor: counter(device.minor),
      readBytes: counter(device.readBytes),
      writeBytes: counter(device.writeBytes),
      readOperations: counter(device.readOperations),
      writeOperations: counter(device.writeOperations),
    })),
    network: response.network.slice(0, maxDevices).map((link) => ({
      name: (link.name ?? "").slice(0, 16),
      rxBytes: counter(link.rxBytes),
      rxPackets: counter(link.rxPackets),
      rxErrors: counter(link.rxErrors),
      rxDropped: counter(link.rxDropped),
      txBytes: counter(link.txBytes),
      txPackets: counter(link.txPackets),
      txErrors: counter(link.txErrors),
      txDropped: counter(link.txDropped),
    })),
  };
}

function counter(value: Counter): number {
  return Math.min(Number(value ?? 0), Number.MAX_SAFE_INTEGER);
}

/** The agent says 2^64-1 for "unlimited". */
function limit(value: Counter): number | undefined {
  const number = Number(value ?? 0);
  return number >= Number.MAX_SAFE_INTEGER ? undefined : number;
}

function fields(values: { readonly [name: string]: Counter } | null | undefined): Map<string, number> {
  const entries = Object.entries(values ?? {}).slice(0, maxFields);
  return new Map(entries.map(([name, value]) => [name, counter(value)]));
}
