import { expect, test } from "vitest";
import { io } from "../../../src/gen/cgroups.js";
import type { ContainerStats } from "../../../src/sandbox/model.ts";
import { toCgroupStats } from "../../../src/shim/cgroup-stats.ts";

const stats: ContainerStats = {
  cpu: {
    usageMicros: 3_000_000,
    userMicros: 2_000_000,
    systemMicros: 1_000_000,
    periods: 10,
    throttledPeriods: 2,
    throttledMicros: 500,
  },
  memory: {
    usageBytes: 1000,
    limitBytes: 8000,
    swapUsageBytes: 100,
    swapLimitBytes: 2000,
    peakBytes: 1500,
    stat: new Map([
      ["anon", 1],
      ["file", 2],
      ["kernel_stack", 3],
      ["slab", 4],
      ["sock", 5],
      ["file_mapped", 7],
      ["inactive_file", 13],
      ["pgfault", 18],
      ["pgmajfault", 19],
      ["workingset_refault_anon", 20],
      ["workingset_refault_file", 22],
      ["a field of a later kernel", 99],
    ]),
    events: new Map([
      ["max", 6],
      ["oom_kill", 1],
    ]),
  },
  pids: { current: 3, limit: 64 },
  io: [{ major: 254, minor: 1, readBytes: 10, writeBytes: 20, readOperations: 1, writeOperations: 2 }],
  network: [
    {
      name: "eth0",
      rxBytes: 1,
      rxPackets: 2,
      rxErrors: 3,
      rxDropped: 4,
      txBytes: 5,
      txPackets: 6,
      txErrors: 7,
      txDropped: 8,
    },
  ],
};
const unlimited: ContainerStats = {
  ...stats,
  memory: { ...stats.memory, limitBytes: undefined, swapLimitBytes: undefined },
  pids: { current: 3, limit: undefined },
};
const eth0 = {
  name: "eth0",
  rxBytes: "1",
  rxPackets: "2",
  rxErrors: "3",
  rxDropped: "4",
  txBytes: "5",
  txPackets: "6",
  txErrors: "7",
  txDropped: "8",
};

/** What a reader decodes, 64-bit integers as text. */
function decoded(version: 1 | 2, value = stats): unknown {
  const { type_url: typeUrl, value: bytes } = toCgroupStats(value, version);
  expect(typeUrl).toBe(`io.containerd.cgroups.v${version}.Metrics`);
  const messages = version === 1 ? io.containerd.cgroups.v1 : io.containerd.cgroups.v2;
  return JSON.parse(
    JSON.stringify(messages.Metrics.decode(bytes), (_, item: unknown) => asText(item)),
  ) as unknown;
}

function asText(item: unknown): unknown {
  if (typeof item !== "object" || item === null || !("low" in item && "high" in item)) return item;
  const { low, high } = item as { low: number; high: number };
  if (typeof low !== "number") return item;
  return ((BigInt(high >>> 0) << 32n) | BigInt(low >>> 0)).toString();
}

test("toCgroupStats() for cgroup v2 carries the guest's numbers over", () => {
  expect(decoded(2)).toMatchObject({
    pids: { current: "3", limit: "64" },
    cpu: {
      usageUsec: "3000000",
      userUsec: "2000000",
      systemUsec: "1000000",
      nrPeriods: "10",
      nrThrottled: "2",
      throttledUsec: "500",
    },
    memory: {
      anon: "1",
      file: "2",
      kernelStack: "3",
      inactiveFile: "13",
      pgfault: "18",
      workingsetRefault: "42",
      usage: "1000",
      usageLimit: "8000",
      swapUsage: "100",
      swapLimit: "2000",
      maxUsage: "1500",
    },
    io: { usage: [{ major: "254", minor: "1", rbytes: "10", wbytes: "20", rios: "1", wios: "2" }] },
    memoryEvents: { max: "6", oomKill: "1" },
    network: [eth0],
  });
});

test("toCgroupStats() for cgroup v1 counts in nanoseconds, and swap with memory", () => {
  expect(decoded(1)).toMatchObject({
    pids: { current: "3", limit: "64" },
    cpu: {
      usage: { total: "3000000000", user: "2000000000", kernel: "1000000000" },
      throttling: { periods: "10", throttledPeriods: "2", throttledTime: "500000" },
    },
    memory: {
      cache: "2",
      totalCache: "2",
      rss: "1",
      totalRss: "1",
      totalInactiveFile: "13",
      totalPgFault: "18",
      totalPgMajFault: "19",
      hierarchicalMemoryLimit: "8000",
      usage: { limit: "8000", usage: "1000", max: "1500", failcnt: "6" },
      swap: { limit: "10000", usage: "1100" },
      kernel: { usage: "7" },
      kernelTcp: { usage: "5" },
    },
    blkio: {
      ioServiceBytesRecursive: [
        { op: "Read", major: "254", minor: "1", value: "10" },
        { op: "Write", major: "254", minor: "1", value: "20" },
        { op: "Total", major: "254", minor: "1", value: "30" },
      ],
      ioServicedRecursive: [{ value: "1" }, { value: "2" }, { value: "3" }],
    },
    memoryOomControl: { oomKill: "1" },
    network: [eth0],
  });
});

test("toCgroupStats() says unlimited as the host's version does", () => {
  expect(decoded(2, unlimited)).toMatchObject({
    pids: { limit: "18446744073709551615" },
    memory: { usageLimit: "18446744073709551615", swapLimit: "18446744073709551615" },
  });
  expect(decoded(1, unlimited)).toMatchObject({
    // 0, which is not written.
    pids: { current: "3" },
    memory: {
      hierarchicalMemoryLimit: "9223372036854771712",
      hierarchicalSwapLimit: "9223372036854771712",
      usage: { limit: "9223372036854771712" },
    },
  });
});

test.for([Number.NaN, -1, Number.POSITIVE_INFINITY])(
  "toCgroupStats() takes %d from a guest as 0",
  (number) => {
    const hostile = { ...stats, cpu: { ...stats.cpu, usageMicros: number } };

    // A 0 is not written.
    expect(decoded(2, hostile)).not.toHaveProperty("cpu.usageUsec");
    expect(decoded(1, hostile)).not.toHaveProperty("cpu.usage.total");
  },
);
