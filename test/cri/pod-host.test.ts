/** What a pod has on the host: its loopback, its size, its cgroup. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runOk } from "../support/cli-run.ts";
import { type Cri, type Handler, startCri } from "../support/cri.ts";
import { runPod } from "../support/cri-pod.ts";
import { markedProcesses } from "../support/leaks-processes.ts";

const isV1 = existsSync("/sys/fs/cgroup/memory/memory.usage_in_bytes");
const memoryRoot = isV1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";

let cri: Cri;
beforeAll(async () => {
  cri = await startCri();
});
afterAll(() => cri[Symbol.asyncDispose]());

/** `crictl port-forward` of a port of the pod to a free one. */
async function forward(podId: string, port: number) {
  const [file = "", ...args] = cri.crictlArgv("port-forward", podId, `:${port}`);
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  let words = "";
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    words += chunk.toString();
    if (words.includes("\n")) break;
  }
  const local = /127\.0\.0\.1:(\d+)/.exec(words)?.[1];
  if (local === undefined) throw new Error(`crictl port-forward said ${JSON.stringify(words)}`);
  return {
    get: (path: string) =>
      runOk(cri.inNetwork("busybox", "wget", "-q", "-O", "-", `http://127.0.0.1:${local}/${path}`)),
    async [Symbol.asyncDispose]() {
      child.kill();
      await ended;
    },
  };
}

describe.for(["caisson", "caisson-shim"] satisfies Handler[])("a pod of the handler %s", (handler) => {
  test("port-forward reaches what listens on the loopback of the pod", async () => {
    await using pod = await runPod(cri, handler, { hostname: "pod-name" });
    await using server = await pod.start("server", ["httpd", "-f", "-p", "127.0.0.1:8000", "-h", "/etc"]);
    // What is refused ends crictl.
    const isUp = async () =>
      (await server.exec("wget", "-q", "-O", "-", "http://127.0.0.1:8000/hostname")).exitCode;
    await expect.poll(isUp, { timeout: 60_000 }).toBe(0);
    await using forwarded = await forward(pod.id, 8000);

    expect(await forwarded.get("hostname")).toMatchObject({ stdout: "pod-name\n" });
    expect(await forwarded.get("hostname")).toMatchObject({ stdout: "pod-name\n" });
  });

  test("the pod's limits are the size of its VM, and its cgroup holds the VM as long as it lives", async () => {
    const memory_limit_in_bytes = 200 * 1024 ** 2;
    const pod = await runPod(cri, handler, { linux: { resources: { memory_limit_in_bytes } } });
    const container = await pod.start("container", ["sleep", "3600"]);

    const total = Number(
      /MemTotal: +(\d+) kB/.exec((await container.exec("cat", "/proc/meminfo")).stdout)?.[1],
    );
    // With 96 MiB for the guest, of which its kernel does not count all.
    expect(total / 1024).toBeGreaterThan(200);
    expect(total / 1024).toBeLessThan(296);
    const place = `/${cri.dir.token}/${pod.id}`;
    for (const program of [/qemu-system/, /virtiofsd/, /vhost-device-vsock/]) {
      const pids = markedProcesses(cri.leakScope(), program);
      expect(pids).not.toEqual([]);
      for (const pid of pids) expect(memoryCgroupOf(pid)).toBe(place);
    }
    await container[Symbol.asyncDispose]();
    await pod[Symbol.asyncDispose]();
    expect(existsSync(`${memoryRoot}${place}`)).toBe(false);
  });
});

function memoryCgroupOf(pid: number): string | undefined {
  const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").split("\n");
  return lines.find((line) => (isV1 ? line.includes(":memory:") : line.startsWith("0::")))?.split(":")[2];
}
