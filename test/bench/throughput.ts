import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { abortable, scope } from "../../src/base/scope.ts";
import { image } from "../support/cli.ts";
import { type Running, start } from "../support/cli-run.ts";
import { runtime } from "../support/containerd.ts";
import { type Bench, type Benchmark, eachRound } from "./bench.ts";
import { startRawVsock } from "./floor.ts";
import { type Goal, makeRow } from "./rows.ts";
import { ctrRunArgv, runcRuntime } from "./runtimes.ts";

const mebibyte = 1024 * 1024;
const transferMiB = 256;
const transferBytes = transferMiB * mebibyte;
const blockBytes = 64 * 1024;
const transferTimeoutMs = 120_000;
const goal: Goal = { of: "ratio", is: "at least", value: 0.8 };

/**
 * 256 MiB out of and into one program, which is the same at the other end of every way (`floor-init/init.c`). Each is started
 * once and idle while the others are measured.
 */
export const throughput: Benchmark = {
  name: "throughput",
  async run(bench) {
    await using raw = await startRawVsock(
      { ...bench, files: bench.floorFiles, dir: bench.containerd.dir },
      transferBytes,
      bench.signal,
    );
    const rawWay = openWay("raw vsock", raw.socket, raw.socket);
    await using cli = startWithCli(bench);
    await using ctr = startWithCtr(bench, "pipe", runtime);
    await using runc = startWithCtr(bench, "runc-pipe", runcRuntime);
    const cliWay = programWay("caisson run -i", cli);
    const ctrWay = programWay("ctr run", ctr);
    const runcWay = programWay("ctr run with runc", runc);
    const ways = [rawWay, cliWay, ctrWay, runcWay];
    // The first transfer waits for the start, and warms up both ends.
    for (const way of ways) {
      bench.progress(`throughput: starting ${way.name}`);
      for (const direction of ["out", "in"] as const) await measure(way, direction, bench.signal);
      way.rates.out.length = 0;
      way.rates.in.length = 0;
    }
    for (const direction of ["out", "in"] as const) {
      await eachRound(bench, titles[direction], bench.runs, async () => {
        const words: string[] = [];
        for (const way of ways) {
          words.push(`${way.name} ${(await measure(way, direction, bench.signal)).toFixed(0)} MiB/s`);
        }
        return words.join(", ");
      });
    }
    for (const way of [cliWay, ctrWay, runcWay]) await way.finish();
    return (["out", "in"] as const).flatMap((direction) => {
      const floor = rawWay.rates[direction];
      const row = (way: Way, options = {}) =>
        makeRow(titles[direction], way.name, "MiB/s", way.rates[direction], options);
      return [row(rawWay), row(cliWay, { floor }), row(ctrWay, { floor, goal }), row(runcWay)];
    });
  },
};

const titles = { out: `stdout, ${transferMiB} MiB`, in: `stdin, ${transferMiB} MiB` };
const command = ["/bench/init", "pipe", String(transferBytes)];
/** Of a program that is started for all rounds. */
const lifeMs = 30 * 60_000;

/** A connection with the serving program. */
interface Way {
  readonly name: string;
  readonly input: Writable;
  /** MiB per second, in the order of the rounds. */
  readonly rates: { readonly out: number[]; readonly in: number[] };
  /** Resolves when this many bytes more have come; they are dropped. */
  receive(bytes: number): Promise<void>;
  /** Asks the program to end and waits until it has. */
  finish(): Promise<void>;
}

function openWay(name: string, input: Writable, output: Readable): Way {
  let wanted = 0;
  let done = () => {};
  let failed: (error: Error) => void = () => {};
  output.on("data", (chunk: Buffer) => {
    wanted -= chunk.length;
    if (wanted === 0) done();
    if (wanted < 0) failed(new Error(`${name}: ${-wanted} bytes more came than were asked for`));
  });
  for (const event of ["close", "error"] as const)
    output.once(event, () => failed(new Error(`${name}: the connection ended with ${wanted} bytes to come`)));
  // A paused socket stays paused when a listener is added.
  output.resume();
  return {
    name,
    input,
    rates: { out: [], in: [] },
    receive: (bytes) =>
      new Promise((resolve, reject) => {
        wanted += bytes;
        done = resolve;
        failed = reject;
      }),
    finish: async () => {
      input.write("q");
    },
  };
}

function programWay(name: string, running: Running): Way {
  let stderr = "";
  running.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const way = openWay(name, running.stdin, running.stdout);
  return {
    ...way,
    receive: (bytes) =>
      way.receive(bytes).catch((error: unknown) => {
        throw new Error(`${name} failed; its stderr: ${JSON.stringify(stderr.slice(-2000))}`, {
          cause: error,
        });
      }),
    finish: async () => {
      await way.finish();
      const { exitCode } = await running.ended;
      if (exitCode !== 0)
        throw new Error(`${name} ended with exit code ${exitCode}: ${JSON.stringify(stderr.slice(-2000))}`);
    },
  };
}

function startWithCli({ cli, floorFiles }: Bench): Running {
  const flags = ["--rm", "-i", "-v", `${floorFiles.directory}:/bench:ro`];
  return cli.start(["run", ...flags, image, ...command], { timeoutMs: lifeMs });
}

function startWithCtr(bench: Bench, name: string, runtimeName: string): Running {
  const { containerd } = bench;
  const mount = `type=bind,src=${bench.floorFiles.directory},dst=/bench,options=rbind:ro`;
  const flags = ["--rm", "--mount", mount];
  return start(ctrRunArgv(containerd, runtimeName, flags, containerd.id(name), ...command), {
    timeoutMs: lifeMs,
  });
}

/** One transfer; returns its rate. The clock stops when the last byte is here, or known to be there. */
async function measure(way: Way, direction: "out" | "in", signal: AbortSignal): Promise<number> {
  using limit = scope(signal, transferTimeoutMs, `a transfer over ${way.name}`);
  const begin = performance.now();
  await abortable(direction === "out" ? fetchBytes(way) : sendBytes(way, limit.signal), limit.signal);
  const rate = transferMiB / ((performance.now() - begin) / 1000);
  way.rates[direction].push(rate);
  return rate;
}

async function fetchBytes(way: Way): Promise<void> {
  const received = way.receive(transferBytes);
  way.input.write("s");
  await received;
}

async function sendBytes(way: Way, signal: AbortSignal): Promise<void> {
  const block = Buffer.alloc(blockBytes);
  const answered = way.receive(1);
  answered.catch(() => {});
  way.input.write("r");
  for (let left = transferBytes; left > 0; left -= blockBytes) {
    if (!way.input.write(block)) await Promise.race([once(way.input, "drain", { signal }), answered]);
  }
  await answered;
}
