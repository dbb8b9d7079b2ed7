import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { Sandbox } from "../../src/index.ts";
import { image } from "../support/cli.ts";
import { createOciCli } from "../support/oci-cli.ts";
import { busybox, createPodman } from "../support/podman.ts";
import { type Bench, type Benchmark, eachRound } from "./bench.ts";
import { makeRow, type Row } from "./rows.ts";
import { ms, succeeded } from "./runtimes.ts";
import { quantileOf } from "./statistics.ts";

const group = "exec of true by every front door";
const whole = "a container of true by the front doors of OCI";
const copies = "the library: copies of a directory";
/** Fewer say nothing of the 99th percentile. */
const fewestRuns = 50;
const fileMiB = 16;
const manyFiles = 500;

/** A container that runs, and `true` in it from the start of the command to its end. */
interface Door {
  readonly name: string;
  /** The whole time in milliseconds. */
  readonly exec: (round: number) => Promise<number>;
}

/** One that makes a container of its own, too, and removes it. */
interface WholeDoor extends Door {
  readonly run: (round: number) => Promise<number>;
}

/** `true` in a running container by each front door in turn, and directories into and out of a sandbox. */
export const frontDoors: Benchmark = {
  name: "front doors",
  async run(bench) {
    const runs = bench.runs > 2 ? Math.max(fewestRuns, bench.runs) : bench.runs;
    await using open = new AsyncDisposableStack();
    process.env["CAISSON_CONFIG"] = bench.cli.dir.join("caisson.toml");
    const sandbox = open.use(await Sandbox.create({ image, onLog: () => {} }));
    const [oci, podman] = [await openOciCli(open), await openPodman(open)];
    const doors = [
      await openCtr(bench, open),
      await openCli(bench, open),
      oci,
      podman,
      { name: "Sandbox.run", exec: () => timed(() => sandbox.run("true")) },
    ];
    const samples = new Map(doors.map(({ name }) => [name, [] as number[]]));
    await eachRound(bench, group, runs, async (round) => {
      for (const { name, exec } of doors) samples.get(name)?.push(await exec(round));
      return [...samples].map(([name, times]) => `${name} ${ms(times.at(-1))}`).join(", ");
    });
    const rows = [...samples].flatMap(([name, times]) => [
      makeRow(group, name, "ms", times),
      makeRow(group, `${name}: p99`, "ms", [quantileOf(times, 0.99)]),
    ]);
    return [...rows, ...(await measureWhole(bench, oci, podman)), ...(await measureCopies(bench, sandbox))];
  },
};

async function timed(work: () => Promise<unknown>): Promise<number> {
  const beginMs = performance.now();
  await work();
  return performance.now() - beginMs;
}

async function openCtr({ containerd }: Bench, open: AsyncDisposableStack): Promise<Door> {
  const { id } = open.use(await containerd.startTask([], containerd.id("door"), "sleep", "100000"));
  const fifos = ["--fifo-dir", containerd.dir.join("fifo")];
  return {
    name: "ctr task exec",
    exec: async (round) =>
      (await containerd.ctrOk(["task", "exec", "--exec-id", `d${round}`, ...fifos, id, "true"])).durationMs,
  };
}

async function openCli({ cli }: Bench, open: AsyncDisposableStack): Promise<Door> {
  const id = cli.id("door");
  open.defer(async () => void (await cli.run(["rm", "--force", id])));
  succeeded(await cli.run(["run", "--detach", "--name", id, image, "sleep", "100000"]));
  return {
    name: "caisson exec",
    exec: async () => succeeded(await cli.run(["exec", id, "true"])).durationMs,
  };
}

async function openOciCli(open: AsyncDisposableStack): Promise<WholeDoor> {
  const oci = open.use(await createOciCli());
  const id = oci.id("door");
  open.defer(() => oci.removeAll());
  const bundle = oci.bundle("door", ["sleep", "100000"]);
  succeeded(await oci.detached(["run", "--detach", "-b", bundle, id], oci.dir.join("out")));
  const short = oci.bundle("short", ["true"]);
  return {
    name: "caisson-oci exec",
    exec: async () => (await oci.ok(["exec", id, "true"])).durationMs,
    run: async (round) => (await oci.ok(["run", "--bundle", short, oci.id(`short-${round}`)])).durationMs,
  };
}

async function openPodman(open: AsyncDisposableStack): Promise<WholeDoor> {
  const podman = open.use(await createPodman());
  await podman.ok(["run", "-d", "--name", "door", busybox, "sleep", "100000"]);
  return {
    name: "podman exec",
    exec: async () => succeeded(await podman.podman(["exec", "door", "true"])).durationMs,
    run: async () => succeeded(await podman.podman(["run", "--rm", busybox, "true"])).durationMs,
  };
}

/** Podman's container has a network of its own, with its bridge. */
async function measureWhole(bench: Bench, oci: WholeDoor, podman: WholeDoor): Promise<Row[]> {
  const [ociMs, podmanMs] = [[] as number[], [] as number[]];
  await eachRound(bench, whole, bench.runs, async (round) => {
    ociMs.push(await oci.run(round));
    podmanMs.push(await podman.run(round));
    return `caisson-oci ${ms(ociMs.at(-1))}, podman ${ms(podmanMs.at(-1))}`;
  });
  return [makeRow(whole, "caisson-oci run", "ms", ociMs), makeRow(whole, "podman run --rm", "ms", podmanMs)];
}

async function measureCopies(bench: Bench, sandbox: Sandbox): Promise<Row[]> {
  const directory = bench.cli.dir.join("copies");
  const content = Buffer.alloc(fileMiB * 1024 ** 2, "0123456789abcdef");
  for (const name of ["large", "small"]) mkdirSync(`${directory}/${name}`, { recursive: true });
  writeFileSync(`${directory}/large/file`, content);
  for (let number = 0; number < manyFiles; number++) writeFileSync(`${directory}/small/f${number}`, "x");
  const rate = (milliseconds: number) => (fileMiB * 1000) / milliseconds;
  const times = { largeIn: [], largeOut: [], smallIn: [], smallOut: [] } as Record<string, number[]>;
  await eachRound(bench, copies, bench.runs, async (round) => {
    const back = `${directory}/back`;
    for (const name of ["large", "small"]) {
      const target = `/${name}-${round}`;
      times[`${name}In`]?.push(await timed(() => sandbox.copyIn(`${directory}/${name}`, target)));
      times[`${name}Out`]?.push(await timed(() => sandbox.copyOut(target, back)));
      rmSync(back, { recursive: true });
    }
    await sandbox.run("sh", ["-c", "rm -r /large-* /small-*"]);
    return `${fileMiB} MiB in ${ms(times["largeIn"]?.at(-1))}, out ${ms(times["largeOut"]?.at(-1))}`;
  });
  rmSync(directory, { recursive: true });
  const { largeIn = [], largeOut = [], smallIn = [], smallOut = [] } = times;
  return [
    makeRow(copies, `copyIn of one file of ${fileMiB} MiB`, "MiB/s", largeIn.map(rate)),
    makeRow(copies, `copyOut of one file of ${fileMiB} MiB`, "MiB/s", largeOut.map(rate)),
    makeRow(copies, `copyIn of ${manyFiles} small files`, "ms", smallIn),
    makeRow(copies, `copyOut of ${manyFiles} small files`, "ms", smallOut),
  ];
}
