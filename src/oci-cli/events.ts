import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, RuntimeError } from "../base/errors.ts";
import type { TaskClient } from "../client/task-client.ts";
import { io } from "../gen/cgroups.js";
import { type Int64, toBigInt } from "../gen/int64.ts";
import { UsageError } from "./flags.ts";
import type { Host } from "./host.ts";
import { probe } from "./probe.ts";

const v1 = io.containerd.cgroups.v1;
const v2 = io.containerd.cgroups.v2;

/** "Unlimited" as version 1 says it. A number of JavaScript does not hold 2^64-1, and Go refuses what is above. */
const unlimited = 0x7fff_ffff_ffff_f000n;

/**
 * `events`: the statistics as JSON lines, at once and after each interval until the container ends; an "oom" line when
 * the kernel has killed one of its processes for want of memory since. With `once` one line only.
 */
export async function events(
  host: Host,
  id: string,
  how: { readonly once: boolean; readonly intervalMs: number },
): Promise<number> {
  const { status, client } = await probe(host, await host.containers.load(id));
  await using connected = client;
  if (connected === undefined || status === "stopped")
    throw new RuntimeError("failed_precondition", `container with id ${id} is not running`);
  const print = (type: string, more: object) =>
    process.stdout.write(`${JSON.stringify({ type, id, ...more })}\n`);
  const ended = connected.wait("").catch(() => undefined);
  let isOver = false;
  void ended.then(() => {
    isOver = true;
  });
  let oomKills: bigint | undefined;
  do {
    const stats = await readStats(connected);
    if (stats === undefined) break;
    if (oomKills !== undefined && stats.oomKills > oomKills) print("oom", {});
    ({ oomKills } = stats);
    print("stats", { data: stats.data });
    if (how.once) break;
    await Promise.race([ended, sleep(how.intervalMs, undefined, { ref: false })]);
  } while (!isOver);
  return 0;
}

/** Go's durations: "5s", "1m30s", "250ms". @throws UsageError, invalid_argument (it is 0) */
export function parseDuration(text: string): number {
  const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  const milliseconds = parts.reduce(
    (sum, [, value, unit]) => sum + Number(value) * (units[unit ?? ""] ?? 0),
    0,
  );
  if (text !== "0" && (text === "" || parts.map(([part]) => part).join("") !== text))
    throw new UsageError(
      `invalid value ${JSON.stringify(text.slice(0, 40))} for flag -interval: parse error`,
    );
  if (milliseconds > 0) return milliseconds;
  throw new RuntimeError("invalid_argument", "duration interval must be greater than 0");
}

interface Stats {
  readonly data: object;
  readonly oomKills: bigint;
}

/** Undefined: the daemon has ended meanwhile. */
export async function readStats(client: TaskClient): Promise<Stats | undefined> {
  try {
    const { type, value } = await client.stats();
    return type.includes(".v1.") ? fromV1(v1.Metrics.decode(value)) : fromV2(v2.Metrics.decode(value));
  } catch (error) {
    if (codeOf(error) === "unavailable" || codeOf(error) === "not_found") return undefined;
    throw error;
  }
}

function fromV1(metrics: io.containerd.cgroups.v1.Metrics): Stats {
  const { cpu, memory, pids, blkio, network } = metrics;
  const entry = (values: io.containerd.cgroups.v1.MemoryEntry.$Properties | null | undefined) => ({
    limit: count(values?.limit),
    usage: count(values?.usage),
    max: count(values?.max),
    failcnt: count(values?.failcnt),
  });
  return {
    oomKills: toBigInt(metrics.memoryOomControl?.oomKill),
    data: document({
      cpu: {
        total: count(cpu?.usage?.total),
        kernel: count(cpu?.usage?.kernel),
        user: count(cpu?.usage?.user),
        periods: count(cpu?.throttling?.periods),
        throttledPeriods: count(cpu?.throttling?.throttledPeriods),
        throttledTime: count(cpu?.throttling?.throttledTime),
      },
      memory: {
        cache: count(memory?.totalCache),
        usage: entry(memory?.usage),
        swap: entry(memory?.swap),
        kernel: entry(memory?.kernel),
        kernelTCP: entry(memory?.kernelTcp),
      },
      pids: { current: count(pids?.current), limit: count(pids?.limit) },
      bytes: (blkio?.ioServiceBytesRecursive ?? []).map(blkioEntry),
      operations: (blkio?.ioServicedRecursive ?? []).map(blkioEntry),
      network: (network ?? []).map(networkEntry),
    }),
  };
}

function fromV2(metrics: io.containerd.cgroups.v2.Metrics): Stats {
  const { cpu, memory, pids, network } = metrics;
  const nanos = (micros: Int64 | null | undefined) => count(micros) * 1000;
  const devices = metrics.io?.usage ?? [];
  const perDevice = (read: "rbytes" | "rios", write: "wbytes" | "wios") =>
    devices.flatMap((device) => {
      const place = { major: count(device.major), minor: count(device.minor) };
      return [
        { ...place, op: "Read", value: count(device[read]) },
        { ...place, op: "Write", value: count(device[write]) },
      ];
    });
  return {
    oomKills: toBigInt(metrics.memoryEvents?.oomKill),
    data: document({
      cpu: {
        total: nanos(cpu?.usageUsec),
        kernel: nanos(cpu?.systemUsec),
        user: nanos(cpu?.userUsec),
        periods: count(cpu?.nrPeriods),
        throttledPeriods: count(cpu?.nrThrottled),
        throttledTime: nanos(cpu?.throttledUsec),
      },
      memory: {
        cache: count(memory?.file),
        usage: {
          limit: count(memory?.usageLimit),
          usage: count(memory?.usage),
          max: count(memory?.maxUsage),
          failcnt: 0,
        },
        swap: { limit: count(memory?.swapLimit), usage: count(memory?.swapUsage), max: 0, failcnt: 0 },
        kernel: { limit: 0, usage: 0, max: 0, failcnt: 0 },
        kernelTCP: { limit: 0, usage: 0, max: 0, failcnt: 0 },
      },
      pids: { current: count(pids?.current), limit: count(pids?.limit) },
      bytes: perDevice("rbytes", "wbytes"),
      operations: perDevice("rios", "wios"),
      network: (network ?? []).map(networkEntry),
    }),
  };
}

interface Measured {
  readonly cpu: {
    readonly total: number;
    readonly kernel: number;
    readonly user: number;
    readonly periods: number;
    readonly throttledPeriods: number;
    readonly throttledTime: number;
  };
  readonly memory: object;
  readonly pids: Readonly<Record<string, number>>;
  readonly bytes: readonly object[];
  readonly operations: readonly object[];
  readonly network: readonly object[];
}

/** As runc prints it (its types/events.go). */
function document({ cpu, memory, pids, bytes, operations, network }: Measured): object {
  const { total, kernel, user, ...throttling } = cpu;
  return {
    cpu: { usage: { ...notZero({ total }), kernel, user }, throttling: notZero(throttling) },
    cpuset: {},
    memory,
    pids: notZero(pids),
    blkio: {
      ...(bytes.length === 0 ? {} : { ioServiceBytesRecursive: bytes }),
      ...(operations.length === 0 ? {} : { ioServicedRecursive: operations }),
    },
    hugetlb: {},
    intel_rdt: {},
    network_interfaces: network.length === 0 ? null : network,
  };
}

/** Go leaves fields out that are 0 where its type says so. */
function notZero(values: Readonly<Record<string, number>>): object {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== 0));
}

function blkioEntry({ major, minor, op, value }: io.containerd.cgroups.v1.BlkIOEntry.$Properties): object {
  return { major: count(major), minor: count(minor), op: op ?? "", value: count(value) };
}

function networkEntry(stat: io.containerd.cgroups.v1.NetworkStat.$Properties): object {
  return {
    Name: stat.name ?? "",
    RxBytes: count(stat.rxBytes),
    RxPackets: count(stat.rxPackets),
    RxErrors: count(stat.rxErrors),
    RxDropped: count(stat.rxDropped),
    TxBytes: count(stat.txBytes),
    TxPackets: count(stat.txPackets),
    TxErrors: count(stat.txErrors),
    TxDropped: count(stat.txDropped),
  };
}

function count(value: Int64 | null | undefined): number {
  const whole = toBigInt(value);
  return Number(whole > unlimited ? unlimited : whole);
}
