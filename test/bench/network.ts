import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { Cleanup } from "../../src/base/cleanup.ts";
import { defaultNamespaces } from "../../src/oci/spec-defaults.ts";
import { makePod } from "../peer/network/pod.ts";
import { createPod } from "../support/model-pod.ts";
import { type Bench, type Benchmark, eachRound } from "./bench.ts";
import type { NetworkSample } from "./network-client.ts";
import { makeRow, type Row } from "./rows.ts";

const transferMiB = 64;
const transferBytes = transferMiB * 1024 * 1024;
const ports = { pipe: 5001, echo: 5002 };
const startLimitMs = 60_000;

/**
 * TCP between a pod and its peer at the other end of a veth pair: with a VM in the pod's place, and with the same server as a
 * process of the host.
 */
export const network: Benchmark = {
  name: "network",
  async run(bench) {
    await using cleanup = new Cleanup();
    const vm = await startInVm(bench, cleanup);
    const plain = await startOnHost(bench, cleanup);
    const samples: { vm: NetworkSample[]; plain: NetworkSample[] } = { vm: [], plain: [] };
    for (const way of [vm, plain]) await way.measure();
    await eachRound(bench, "network", bench.runs, async () => {
      samples.plain.push(await plain.measure());
      samples.vm.push(await vm.measure());
      const show = ({ outMibPerSecond, roundTripMs }: NetworkSample) =>
        `${outMibPerSecond.toFixed(0)} MiB/s out, ${roundTripMs.toFixed(2)} ms`;
      const [last, floor] = [samples.vm.at(-1), samples.plain.at(-1)];
      return last === undefined || floor === undefined ? "" : `VM ${show(last)}; veth ${show(floor)}`;
    });
    return rowsOf(samples);
  },
};

function rowsOf({ vm, plain }: { vm: NetworkSample[]; plain: NetworkSample[] }): Row[] {
  const kinds = [
    { group: `TCP out of a pod, ${transferMiB} MiB`, unit: "MiB/s", pick: "outMibPerSecond" },
    { group: `TCP into a pod, ${transferMiB} MiB`, unit: "MiB/s", pick: "inMibPerSecond" },
    { group: "TCP round trip of a byte", unit: "ms", pick: "roundTripMs" },
  ] as const;
  return kinds.flatMap(({ group, unit, pick }) => {
    const floor = plain.map((sample) => sample[pick]);
    return [
      makeRow(group, "plain veth pair", unit, floor),
      makeRow(
        group,
        "pod in a VM",
        unit,
        vm.map((sample) => sample[pick]),
        { floor },
      ),
    ];
  });
}

/** A server in a pod's namespace, and its client in the peer's. */
interface Way {
  measure(): Promise<NetworkSample>;
}

const serverScript = (init: string) =>
  `nc -ll -p ${ports.echo} -e cat & exec nc -ll -p ${ports.pipe} -e ${init} pipe ${transferBytes}`;

async function startInVm(bench: Bench, cleanup: Cleanup): Promise<Way> {
  const net = makePod();
  cleanup.defer("namespaces of the VM", () => net[Symbol.dispose]());
  const pod = createPod(bench.config);
  cleanup.defer("VM", () => pod[Symbol.asyncDispose]());
  const source = bench.floorFiles.directory;
  const { container } = await pod.create("", ["sh", "-c", serverScript("/bench/init")], {
    mounts: [{ destination: "/bench", type: "bind", source, options: ["rbind", "ro"] }],
    namespaces: defaultNamespaces.map((type) => ({
      type,
      ...(type === "network" && { path: net.pod.path }),
    })),
  });
  await container.start("");
  return await wayTo(net.peer.path, bench.signal);
}

async function startOnHost(bench: Bench, cleanup: Cleanup): Promise<Way> {
  const net = makePod();
  cleanup.defer("namespaces of the plain pair", () => net[Symbol.dispose]());
  const script = serverScript(join(bench.floorFiles.directory, "init")).replaceAll("nc ", "busybox nc ");
  const server = spawn("nsenter", [`--net=${net.pod.path}`, "--", "sh", "-c", script], {
    stdio: "ignore",
    detached: true,
  });
  const ended = once(server, "exit");
  cleanup.defer("server", async () => {
    // The shell has become one server, the other one is in its group.
    process.kill(-(server.pid ?? 0), "SIGKILL");
    await ended;
  });
  return await wayTo(net.peer.path, bench.signal);
}

/** Waits until the server answers. */
async function wayTo(peerPath: string, signal: AbortSignal): Promise<Way> {
  const client = join(import.meta.dirname, "network-client.ts");
  const measure = async () => {
    const words = [client, "10.1.0.5", ports.pipe, ports.echo, transferBytes].map(String);
    const { stdout } = await execa("nsenter", [`--net=${peerPath}`, "--", process.execPath, ...words], {
      cancelSignal: signal,
      timeout: startLimitMs,
    });
    return JSON.parse(stdout) as NetworkSample;
  };
  const deadline = performance.now() + startLimitMs;
  for (;;) {
    const probe = ["nsenter", `--net=${peerPath}`, "--", "busybox", "nc", "-w", "5", "10.1.0.5"];
    const [file = "", ...rest] = probe;
    const answers = await Promise.all(
      Object.values(ports).map((port) =>
        execa(file, [...rest, String(port)], { input: "q", reject: false, cancelSignal: signal }),
      ),
    );
    if (answers.every(({ exitCode }) => exitCode === 0)) return { measure };
    if (performance.now() > deadline) throw new Error("The server of the network benchmark does not answer");
    await sleep(200, undefined, { signal });
  }
}
