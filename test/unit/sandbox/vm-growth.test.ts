import { expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import type { Growth } from "../../../src/hypervisor/vm-config.ts";
import { limitsOf } from "../../../src/sandbox/container-limits.ts";
import { VmGrowth } from "../../../src/sandbox/vm-growth.ts";

const mib = 1024 ** 2;

/** A VM of one CPU and 512 MiB that records what it is told. */
function makeVm(growth: Growth | "fixed" = { maxVcpus: 4, maxMemoryMiB: 2_048 }) {
  const told: string[] = [];
  const vm = {
    told,
    refusal: undefined as RuntimeError | undefined,
    growth: new VmGrowth({
      vm: {
        resize: async ({ vcpus, memoryMiB }) => {
          if (vm.refusal !== undefined) throw vm.refusal;
          told.push(`${vcpus} CPUs, ${memoryMiB} MiB`);
        },
      },
      agent: { onlineProcessors: async (count) => void told.push(`${count} online`) },
      size: { vcpus: 1, memoryMiB: 512 },
      growth: growth === "fixed" ? undefined : growth,
      memoryOverheadMiB: 96,
    }),
  };
  return vm;
}

test("it grows to what all containers may take together, and to its most at most", async () => {
  const vm = makeVm();
  vm.growth.add("a", { memoryBytes: 256 * mib, cpus: 0.5 });
  vm.growth.add("b", { memoryBytes: 100 * mib, cpus: 0.5 });

  await vm.growth.change("a", { memoryBytes: 300 * mib });
  expect(vm.told).toEqual([]);
  await vm.growth.change("a", { memoryBytes: 400 * mib });
  expect(vm.told.splice(0)).toEqual(["1 CPUs, 596 MiB"]);
  // Its memory counts as it was changed to.
  await vm.growth.change("b", { cpus: 1.2 });
  expect(vm.told.splice(0)).toEqual(["2 CPUs, 596 MiB", "2 online"]);
  await vm.growth.change("b", { memoryBytes: 9_000 * mib, cpus: 64 });
  expect(vm.told.splice(0)).toEqual(["4 CPUs, 2048 MiB", "4 online"]);
  expect(vm.growth.size).toEqual({ vcpus: 4, memoryMiB: 2_048 });
});

test("a container that is gone counts no more, and the VM never shrinks", async () => {
  const vm = makeVm();
  vm.growth.add("a", { memoryBytes: 400 * mib });
  vm.growth.remove("a");

  await vm.growth.change("b", { memoryBytes: 400 * mib });
  await vm.growth.change("b", { memoryBytes: 1 * mib });

  expect(vm.told).toEqual([]);
});

test("what the guest refuses was not taken, and is tried again", async () => {
  const vm = makeVm();
  vm.refusal = new RuntimeError("resource_exhausted", "no");

  await expect(vm.growth.change("a", { memoryBytes: 600 * mib })).rejects.toThrow("no");
  expect(vm.growth.size).toEqual({ vcpus: 1, memoryMiB: 512 });
  vm.refusal = undefined;
  await vm.growth.change("b", { memoryBytes: 500 * mib });
  expect(vm.told).toEqual(["1 CPUs, 596 MiB"]);
});

test("one that cannot grow is told nothing", async () => {
  const vm = makeVm("fixed");

  await vm.growth.change("a", { memoryBytes: 600 * mib, cpus: 8 });

  expect(vm.told).toEqual([]);
  expect(vm.growth.most).toEqual({ vcpus: 1, memoryMiB: 512 });
});

test.each([
  { resources: {}, want: {} },
  {
    resources: { memory: { limit: 5 }, cpu: { quota: 50_000, period: 25_000 } },
    want: { memoryBytes: 5, cpus: 2 },
  },
  {
    resources: { memory: { limit: -1 }, cpu: { quota: -1 } },
    want: { memoryBytes: undefined, cpus: undefined },
  },
  { resources: { memory: { limit: 0 }, cpu: { quota: 0, shares: 2 } }, want: {} },
  { resources: { memory: null, cpu: 7 }, want: {} },
])("limitsOf($resources)", ({ resources, want }) => {
  expect(limitsOf(resources)).toStrictEqual(want);
});
