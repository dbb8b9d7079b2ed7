import { io } from "../gen/cgroups.js";
import { type Int64, uint64 } from "../gen/int64.ts";
import type { ContainerStats } from "../sandbox/model.ts";
import type { CgroupVersion } from "../base/cgroups.ts";

const v1 = io.containerd.cgroups.v1;
const v2 = io.containerd.cgroups.v2;

/** What cgroups of version 1 say for "unlimited": the largest signed number of whole 4 KiB pages. */
const v1Unlimited = 0x7fff_ffff_ffff_f000n;
const v2Unlimited = 0xffff_ffff_ffff_ffffn;

/**
 * The usage of a guest's cgroup, always of version 2, as statistics of the host's version: containerd's collector takes
 * no others.
 */
export function toCgroupStats(
  stats: ContainerStats,
  version: CgroupVersion,
): { readonly type_url: string; readonly value: Uint8Array } {
  return version === 1
    ? { type_url: "io.containerd.cgroups.v1.Metrics", value: v1.Metrics.encode(toV1(stats)).finish() }
    : { type_url: "io.containerd.cgroups.v2.Metrics", value: v2.Metrics.encode(toV2(stats)).finish() };
}

function toV2(stats: ContainerStats): io.containerd.cgroups.v2.Metrics.$Properties {
  const { cpu, memory, pids, io: devices, network } = stats;
  const event = (name: string) => named(memory.events, name);
  return {
    pids: { current: count(pids.current), limit: limit(pids.limit, v2Unlimited) },
    cpu: {
      usageUsec: count(cpu.usageMicros),
      userUsec: count(cpu.userMicros),
      systemUsec: count(cpu.systemMicros),
      nrPeriods: count(cpu.periods),
      nrThrottled: count(cpu.throttledPeriods),
      throttledUsec: count(cpu.throttledMicros),
    },
    memory: {
      ...v2MemoryFields(memory.stat),
      usage: count(memory.usageBytes),
      usageLimit: limit(memory.limitBytes, v2Unlimited),
      swapUsage: count(memory.swapUsageBytes),
      swapLimit: limit(memory.swapLimitBytes, v2Unlimited),
      maxUsage: count(memory.peakBytes),
    },
    io: {
      usage: devices.map((device) => ({
        major: count(device.major),
        minor: count(device.minor),
        rbytes: count(device.readBytes),
        wbytes: count(device.writeBytes),
        rios: count(device.readOperations),
        wios: count(device.writeOperations),
      })),
    },
    memoryEvents: {
      low: event("low"),
      high: event("high"),
      max: event("max"),
      oom: event("oom"),
      oomKill: event("oom_kill"),
      oomGroupKill: event("oom_group_kill"),
    },
    network: toNetwork(network),
  };
}

/** The message's fields have the names of memory.stat (the kernel's cgroup-v2.rst). */
function v2MemoryFields(
  stat: ContainerStats["memory"]["stat"],
): io.containerd.cgroups.v2.MemoryStat.$Properties {
  const field = (name: string) => named(stat, name);
  return {
    anon: field("anon"),
    file: field("file"),
    kernelStack: field("kernel_stack"),
    slab: field("slab"),
    sock: field("sock"),
    shmem: field("shmem"),
    fileMapped: field("file_mapped"),
    fileDirty: field("file_dirty"),
    fileWriteback: field("file_writeback"),
    anonThp: field("anon_thp"),
    inactiveAnon: field("inactive_anon"),
    activeAnon: field("active_anon"),
    inactiveFile: field("inactive_file"),
    activeFile: field("active_file"),
    unevictable: field("unevictable"),
    slabReclaimable: field("slab_reclaimable"),
    slabUnreclaimable: field("slab_unreclaimable"),
    pgfault: field("pgfault"),
    pgmajfault: field("pgmajfault"),
    workingsetRefault: sum(stat, "workingset_refault_anon", "workingset_refault_file"),
    workingsetActivate: sum(stat, "workingset_activate_anon", "workingset_activate_file"),
    workingsetNodereclaim: field("workingset_nodereclaim"),
    pgrefill: field("pgrefill"),
    pgscan: field("pgscan"),
    pgsteal: field("pgsteal"),
    pgactivate: field("pgactivate"),
    pgdeactivate: field("pgdeactivate"),
    pglazyfree: field("pglazyfree"),
    pglazyfreed: field("pglazyfreed"),
    thpFaultAlloc: field("thp_fault_alloc"),
    thpCollapseAlloc: field("thp_collapse_alloc"),
    workingsetRefaultAnon: field("workingset_refault_anon"),
    workingsetRefaultFile: field("workingset_refault_file"),
    workingsetActivateAnon: field("workingset_activate_anon"),
    workingsetActivateFile: field("workingset_activate_file"),
  };
}

function toV1(stats: ContainerStats): io.containerd.cgroups.v1.Metrics.$Properties {
  const { cpu, memory, pids, io: devices, network } = stats;
  return {
    pids: { current: count(pids.current), limit: limit(pids.limit, 0n) },
    cpu: {
      usage: {
        total: nanos(cpu.usageMicros),
        kernel: nanos(cpu.systemMicros),
        user: nanos(cpu.userMicros),
      },
      throttling: {
        periods: count(cpu.periods),
        throttledPeriods: count(cpu.throttledPeriods),
        throttledTime: nanos(cpu.throttledMicros),
      },
    },
    memory: { ...v1MemoryFields(memory.stat), ...v1MemoryEntries(memory) },
    blkio: {
      ioServiceBytesRecursive: toBlkio(devices, "readBytes", "writeBytes"),
      ioServicedRecursive: toBlkio(devices, "readOperations", "writeOperations"),
    },
    network: toNetwork(network),
    memoryOomControl: { oomKill: named(memory.events, "oom_kill") },
  };
}

/** Version 2 counts a cgroup with its children: version 1's own and total numbers are the same here. */
function v1MemoryFields(
  stat: ContainerStats["memory"]["stat"],
): io.containerd.cgroups.v1.MemoryStat.$Properties {
  const field = (name: string) => named(stat, name);
  const cache = field("file");
  const rss = field("anon");
  const rssHuge = field("anon_thp");
  const mappedFile = field("file_mapped");
  const dirty = field("file_dirty");
  const writeback = field("file_writeback");
  const pgFault = field("pgfault");
  const pgMajFault = field("pgmajfault");
  const inactiveAnon = field("inactive_anon");
  const activeAnon = field("active_anon");
  const inactiveFile = field("inactive_file");
  const activeFile = field("active_file");
  const unevictable = field("unevictable");
  return {
    cache,
    rss,
    rssHuge,
    mappedFile,
    dirty,
    writeback,
    pgFault,
    pgMajFault,
    inactiveAnon,
    activeAnon,
    inactiveFile,
    activeFile,
    unevictable,
    totalCache: cache,
    totalRss: rss,
    totalRssHuge: rssHuge,
    totalMappedFile: mappedFile,
    totalDirty: dirty,
    totalWriteback: writeback,
    totalPgFault: pgFault,
    totalPgMajFault: pgMajFault,
    totalInactiveAnon: inactiveAnon,
    totalActiveAnon: activeAnon,
    totalInactiveFile: inactiveFile,
    totalActiveFile: activeFile,
    totalUnevictable: unevictable,
  };
}

function v1MemoryEntries(memory: ContainerStats["memory"]): io.containerd.cgroups.v1.MemoryStat.$Properties {
  const { stat, limitBytes, swapLimitBytes } = memory;
  // Version 1 counts memory and swap together where version 2 counts swap alone.
  const isUnlimited = limitBytes === undefined || swapLimitBytes === undefined;
  const memoryLimit = limit(limitBytes, v1Unlimited);
  const swapLimit = limit(isUnlimited ? undefined : limitBytes + swapLimitBytes, v1Unlimited);
  return {
    hierarchicalMemoryLimit: memoryLimit,
    hierarchicalSwapLimit: swapLimit,
    usage: {
      limit: memoryLimit,
      usage: count(memory.usageBytes),
      max: count(memory.peakBytes),
      failcnt: named(memory.events, "max"),
    },
    swap: { limit: swapLimit, usage: count(memory.usageBytes + memory.swapUsageBytes) },
    kernel: { limit: uint64(v1Unlimited), usage: kernelBytes(stat) },
    kernelTcp: { limit: uint64(v1Unlimited), usage: named(stat, "sock") },
  };
}

/** Linux has the sum since 5.18; before, its large parts are added up. */
function kernelBytes(stat: ReadonlyMap<string, number>): Int64 {
  return stat.has("kernel")
    ? named(stat, "kernel")
    : sum(stat, "kernel_stack", "pagetables", "percpu", "slab");
}

type Device = ContainerStats["io"][number];

function toBlkio(devices: readonly Device[], read: keyof Device, write: keyof Device) {
  return devices.flatMap((device) => {
    const { major, minor } = device;
    const entry = (op: string, value: number) => ({
      op,
      major: count(major),
      minor: count(minor),
      value: count(value),
    });
    return [
      entry("Read", device[read]),
      entry("Write", device[write]),
      entry("Total", device[read] + device[write]),
    ];
  });
}

function toNetwork(links: ContainerStats["network"]) {
  return links.map((link) => ({
    name: link.name,
    rxBytes: count(link.rxBytes),
    rxPackets: count(link.rxPackets),
    rxErrors: count(link.rxErrors),
    rxDropped: count(link.rxDropped),
    txBytes: count(link.txBytes),
    txPackets: count(link.txPackets),
    txErrors: count(link.txErrors),
    txDropped: count(link.txDropped),
  }));
}

function named(values: ReadonlyMap<string, number>, name: string): Int64 {
  return count(values.get(name) ?? 0);
}

function sum(values: ReadonlyMap<string, number>, ...names: string[]): Int64 {
  return count(names.reduce((total, name) => total + (values.get(name) ?? 0), 0));
}

function limit(value: number | undefined, unlimited: bigint): Int64 {
  return value === undefined ? uint64(unlimited) : count(value);
}

function nanos(micros: number): Int64 {
  return uint64(1000n * wholeNumber(micros));
}

function count(value: number): Int64 {
  return uint64(wholeNumber(value));
}

/** The guest says the numbers: what is none counts as 0. */
function wholeNumber(value: number): bigint {
  return Number.isFinite(value) && value > 0 ? BigInt(Math.floor(value)) : 0n;
}
