/** The figures that the kubelet and `kubectl top` go by, of containers whose use is known. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runOk } from "../support/cli-run.ts";
import { type Cri, type Handler, startCri } from "../support/cri.ts";
import { type PodContainer, runPod } from "../support/cri-pod.ts";
import { patient } from "../support/patience.ts";

const mebibyte = 1024 ** 2;
const inTime = { timeout: patient(120_000), interval: 1000 };

/** A number of CRI's protobuf JSON. */
interface Value {
  readonly value: string;
}
interface Usage {
  readonly cpu: { readonly usageCoreNanoSeconds: Value };
  readonly memory: { readonly workingSetBytes: Value };
}
interface ContainerStats extends Usage {
  readonly attributes: { readonly metadata: { readonly name: string } };
}
interface PodStats {
  readonly linux: Usage & {
    readonly network: {
      readonly defaultInterface: { readonly name: string; readonly rxBytes: Value; readonly txBytes: Value };
    };
    readonly containers: readonly ContainerStats[];
  };
}

const cpuSeconds = ({ cpu }: Usage) => Number(cpu.usageCoreNanoSeconds.value) / 1e9;
const memoryMiB = ({ memory }: Usage) => Number(memory.workingSetBytes.value) / mebibyte;

let cri: Cri;
beforeAll(async () => {
  cri = await startCri();
});
afterAll(() => cri[Symbol.asyncDispose]());

async function statsOf<T>(command: "stats" | "statsp", id: string): Promise<T> {
  const { stats } = JSON.parse(await cri.crictlOk([command, "--output", "json", "--id", id])) as {
    stats: T[];
  };
  if (stats[0] === undefined) throw new Error(`crictl ${command} has nothing about ${id}`);
  return stats[0];
}

const ofContainer = ({ id }: PodContainer) => statsOf<ContainerStats>("stats", id);

async function addressOf(podId: string): Promise<string> {
  const inspected = JSON.parse(await cri.crictlOk(["inspectp", podId])) as {
    status: { network: { ip: string } };
  };
  return inspected.status.network.ip;
}

describe.for(["caisson", "caisson-shim"] satisfies Handler[])("a pod of the handler %s", (handler) => {
  test("statistics of containers and of their pod are what they use", async () => {
    await using pod = await runPod(cri, handler);
    const startedMs = performance.now();
    await using spinner = await pod.start("spinner", ["sh", "-c", "while :; do :; done"]);
    const fill = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=40";
    await using filler = await pod.start("filler", ["sh", "-c", `${fill} 2>/dev/null; sleep 3600`]);
    await using server = await pod.start("server", ["httpd", "-f", "-p", "8000", "-h", "/dev/shm"]);

    await expect.poll(async () => memoryMiB(await ofContainer(filler)), inTime).toBeGreaterThan(40);
    await expect.poll(async () => cpuSeconds(await ofContainer(spinner)), inTime).toBeGreaterThan(2);
    expect(memoryMiB(await ofContainer(filler))).toBeLessThan(60);
    expect(memoryMiB(await ofContainer(spinner))).toBeLessThan(20);
    const spunSeconds = cpuSeconds(await ofContainer(spinner));
    // One thread.
    expect(spunSeconds).toBeLessThan(((performance.now() - startedMs) / 1000) * 1.2);
    expect(cpuSeconds(await ofContainer(server))).toBeLessThan(spunSeconds);

    const url = `http://${await addressOf(pod.id)}:8000/fill`;
    await runOk(cri.inNetwork("busybox", "wget", "-q", "-O", "/dev/null", url), { timeoutMs: 120_000 });
    const { linux } = await statsOf<PodStats>("statsp", pod.id);
    expect(linux.containers.map(({ attributes }) => attributes.metadata.name).sort()).toEqual([
      "filler",
      "server",
      "spinner",
    ]);
    // Those of the host: of the VM and its helpers.
    expect(memoryMiB(linux)).toBeGreaterThan(40);
    expect(memoryMiB(linux)).toBeLessThan(2048);
    expect(cpuSeconds(linux)).toBeGreaterThan(1);
    const { name, rxBytes, txBytes } = linux.network.defaultInterface;
    expect(name).toBe("eth0");
    expect(Number(txBytes.value)).toBeGreaterThan(40 * mebibyte);
    expect(Number(rxBytes.value)).toBeGreaterThan(1000);
  });
});
