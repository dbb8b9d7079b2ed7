import type { Container, ContainerStats, Sandbox } from "../sandbox/model.ts";
import { toCgroupStats } from "./cgroup-stats.ts";
import { hostCgroupVersion } from "../base/cgroups.ts";

/**
 * Usage of a sandbox: the sum of its containers', without what the guest's kernel, the VMM and its helpers take.
 * Containers that give no answer are left out.
 */
export async function sandboxStats(sandbox: Sandbox): Promise<ReturnType<typeof toCgroupStats>> {
  const answers = await Promise.allSettled(
    sandbox.containers.map((container: Container) => container.stats()),
  );
  const all = answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
  return toCgroupStats(sumOf(all), await hostCgroupVersion());
}

/** The links are those of the guest, the same for all its containers. */
export function sumOf(all: readonly ContainerStats[]): ContainerStats {
  const sum = (pick: (stats: ContainerStats) => number) =>
    all.reduce((total, stats) => total + pick(stats), 0);
  return {
    cpu: {
      usageMicros: sum(({ cpu }) => cpu.usageMicros),
      userMicros: sum(({ cpu }) => cpu.userMicros),
      systemMicros: sum(({ cpu }) => cpu.systemMicros),
      periods: sum(({ cpu }) => cpu.periods),
      throttledPeriods: sum(({ cpu }) => cpu.throttledPeriods),
      throttledMicros: sum(({ cpu }) => cpu.throttledMicros),
    },
    memory: {
      usageBytes: sum(({ memory }) => memory.usageBytes),
      limitBytes: undefined,
      swapUsageBytes: sum(({ memory }) => memory.swapUsageBytes),
      swapLimitBytes: undefined,
      peakBytes: sum(({ memory }) => memory.peakBytes),
      stat: sumByName(all.map(({ memory }) => memory.stat)),
      events: sumByName(all.map(({ memory }) => memory.events)),
    },
    pids: { current: sum(({ pids }) => pids.current), limit: undefined },
    io: all.flatMap(({ io }) => io),
    network: all[0]?.network ?? [],
  };
}

function sumByName(maps: readonly ReadonlyMap<string, number>[]): ReadonlyMap<string, number> {
  const total = new Map<string, number>();
  for (const [name, value] of maps.flatMap((map) => [...map]))
    total.set(name, (total.get(name) ?? 0) + value);
  return total;
}
