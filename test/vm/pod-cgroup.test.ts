import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { markedProcesses } from "../support/leaks-processes.ts";
import { createPod, type Pod } from "../support/model-pod.ts";
import { vmmProgram } from "../support/suite-settings.ts";

const mebibyte = 1024 ** 2;
const isV1 = existsSync("/sys/fs/cgroup/memory/memory.usage_in_bytes");
const memoryRoot = isV1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
const cpuRoot = isV1 ? "/sys/fs/cgroup/cpu" : "/sys/fs/cgroup";
const [usageFile, limitFile] = isV1
  ? ["memory.usage_in_bytes", "memory.limit_in_bytes"]
  : ["memory.current", "memory.max"];
/** Of the containers together. */
const podMemoryBytes = 128 * mebibyte;
/** What deploy/ and docs/configuration.md say of a RuntimeClass, with room for the emulator of a host without KVM. */
const overheadBytes = 400 * mebibyte;

const name = `caisson-test-${process.pid}`;
checkLeaksAroundEachTest(() => ({ marks: [name] }));

/** The cgroup of a pod, made and limited as kubelet does it. */
function makeKubeletCgroup(limitBytes: number) {
  const path = `${memoryRoot}/${name}`;
  const paths = new Set([path, `${cpuRoot}/${name}`]);
  for (const each of paths) mkdirSync(each);
  writeFileSync(`${path}/${limitFile}`, String(limitBytes));
  return {
    usageBytes: () => Number(readFileSync(`${path}/${usageFile}`, "utf8")),
    entries: () => readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory()),
    /** Of 100,000 microseconds; less than it gets on a busy machine. */
    limitCpu: (quota: "10000" | "none") =>
      isV1
        ? writeFileSync(`${cpuRoot}/${name}/cpu.cfs_quota_us`, quota === "none" ? "-1" : quota)
        : writeFileSync(`${cpuRoot}/${name}/cpu.max`, quota === "none" ? "max" : quota),
    /** In how many periods it wanted more. */
    throttledPeriods: () =>
      Number(/^nr_throttled (\d+)$/m.exec(readFileSync(`${cpuRoot}/${name}/cpu.stat`, "utf8"))?.[1]),
    [Symbol.dispose]: () => {
      for (const each of paths) rmdirSync(each);
    },
  };
}

/** Where the programs of the pod's VM are accounted. */
function cgroupsOf(pod: Pod, program: RegExp): string[] {
  const pids = markedProcesses(pod.leakScope(), program);
  return pids.map((pid) => {
    const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").split("\n");
    return (
      lines.find((line) => (isV1 ? line.includes(":memory:") : line.startsWith("0::")))?.split(":")[2] ?? ""
    );
  });
}

test("the pod's cgroup holds the VM and its helpers, accounts for the guest's memory, lets it use its own, and holds its CPU limit", async () => {
  using kubelet = makeKubeletCgroup(podMemoryBytes + overheadBytes);
  await using pod = createPod();
  const place = `/${name}/${pod.dir.token}`;
  const container = await pod.start("", {
    annotations: {
      "io.kubernetes.cri.container-type": "sandbox",
      "io.kubernetes.cri.sandbox-memory": String(podMemoryBytes),
    },
    linux: { cgroupsPath: place, resources: { memory: { limit: podMemoryBytes } } },
    mounts: [{ destination: "/dev/shm", type: "tmpfs", source: "shm", options: ["size=120m"] }],
  });

  expect(cgroupsOf(pod, new RegExp(vmmProgram))).toEqual([place]);
  // Only where the kernel has no vhost-vsock.
  for (const backend of cgroupsOf(pod, /vhost-device-vsock/)) expect(backend).toBe(place);
  // Itself and its worker.
  expect(cgroupsOf(pod, /virtiofsd/)).toEqual([place, place]);
  expect(await container.sh("dd if=/dev/zero of=/dev/shm/fill bs=1M count=110 2>/dev/null")).toMatchObject({
    exitCode: 0,
  });
  const usedBytes = kubelet.usageBytes();
  expect(usedBytes).toBeGreaterThan(110 * mebibyte);
  kubelet.limitCpu("10000");
  await container.sh("timeout 3 sh -c 'while :; do :; done'");
  expect(kubelet.throttledPeriods()).toBeGreaterThan(3);
  kubelet.limitCpu("none");
  console.info(`the pod's cgroup: ${Math.round(usedBytes / mebibyte)} MiB for 110 MiB in the guest`);

  await container.remove();
  expect(kubelet.entries()).toEqual([]);
});

test("a pod's cgroup that is too small for a VM fails the create, and the error says so", async () => {
  using kubelet = makeKubeletCgroup(24 * mebibyte);
  await using pod = createPod();
  const linux = { cgroupsPath: `/${name}/${pod.dir.token}` };

  await expect(pod.create("", ["true"], { linux })).rejects.toThrow(
    /OOM killer has struck in the sandbox's cgroup/,
  );
  expect(kubelet.entries()).toEqual([]);
});
