import { closeSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { abortable, scope } from "../../src/base/scope.ts";
import { type Running, start } from "../support/cli-run.ts";
import { runtime } from "../support/containerd.ts";
import { type Bench, type Benchmark, eachRound } from "./bench.ts";
import { makeRow } from "./rows.ts";
import { ctrRunArgv, runcRuntime } from "./runtimes.ts";

const sizeMiB = 64;
const manyFiles = 2000;
const roundTimeoutMs = 120_000;
const lifeMs = 30 * 60_000;
const steps = ["write", "read", "stat"] as const;

type Sample = Readonly<Record<(typeof steps)[number], number>>;

/** Files of a directory of the host: bound into a container of ours, of runc, and by a process of the host. */
export const files: Benchmark = {
  name: "files",
  async run(bench) {
    const { containerd, floorFiles } = bench;
    const shared = containerd.dir.join("files");
    mkdirSync(shared);
    const script = (root: string) => ["sh", join(root, "files.sh")];
    await using host = openWay(
      "host",
      start(["busybox", ...script(floorFiles.directory)], { timeoutMs: lifeMs }),
    );
    await using ours = openWay("ctr run", startWithCtr(bench, "files", runtime, shared));
    await using runc = openWay("ctr run with runc", startWithCtr(bench, "runc-files", runcRuntime, shared));
    const ways = [host, ours, runc];
    // The first round waits for the start.
    await eachRound(bench, "files", bench.runs + 1, async (round) => {
      const words: string[] = [];
      for (const [index, way] of ways.entries()) {
        const name = `${round}-${index}`;
        makeFiles(join(shared, name));
        const sample = await way.measure(join(way === host ? shared : "/files", name), bench.signal);
        rmSync(join(shared, name), { recursive: true });
        if (round > 1) way.samples.push(sample);
        words.push(`${way.name} ${sample.write.toFixed(0)}/${sample.read.toFixed(0)} MiB/s`);
      }
      return words.join(", ");
    });
    return steps.flatMap((step) => {
      const floor = host.samples.map((sample) => sample[step]);
      return ways.map((way) =>
        makeRow(
          groups[step],
          way.name,
          step === "stat" ? "ms" : "MiB/s",
          way.samples.map((sample) => sample[step]),
          way === host ? {} : { floor },
        ),
      );
    });
  },
};

const groups = {
  write: `files: ${sizeMiB} MiB written and synced`,
  read: `files: ${sizeMiB} MiB read for the first time`,
  stat: `files: attributes of ${manyFiles} for the first time`,
};

/** What the script reads and lists, new to everybody but the host. */
function makeFiles(directory: string): void {
  mkdirSync(join(directory, "many"), { recursive: true });
  for (let number = 0; number < manyFiles; number++)
    closeSync(openSync(join(directory, "many", `f${number}`), "w"));
  const block = Buffer.alloc(1024 * 1024, "0123456789abcdef");
  const file = openSync(join(directory, "large"), "w");
  for (let written = 0; written < sizeMiB; written++) writeSync(file, block);
  closeSync(file);
  writeFileSync(join(directory, "written"), "");
}

function startWithCtr(bench: Bench, name: string, runtimeName: string, shared: string): Running {
  const { containerd, floorFiles } = bench;
  const flags = [
    "--rm",
    ...[
      `src=${floorFiles.directory},dst=/bench,options=rbind:ro`,
      `src=${shared},dst=/files,options=rbind:rw`,
    ].flatMap((mount) => ["--mount", `type=bind,${mount}`]),
  ];
  return start(ctrRunArgv(containerd, runtimeName, flags, containerd.id(name), "sh", "/bench/files.sh"), {
    timeoutMs: lifeMs,
  });
}

/** A running script. Disposing ends it. */
interface Way extends AsyncDisposable {
  readonly name: string;
  readonly samples: Sample[];
  /** One round in a directory, which is named as the script sees it. */
  measure(directory: string, signal: AbortSignal): Promise<Sample>;
}

function openWay(name: string, running: Running): Way {
  const lines = createInterface({ input: running.stdout })[Symbol.asyncIterator]();
  let stderr = "";
  running.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const wait = async (word: string) => {
    const { value, done } = await lines.next();
    if (done === true || value !== word)
      throw new Error(
        `${name}: expected "${word}", got ${JSON.stringify(value)}; stderr ${JSON.stringify(stderr.slice(-2000))}`,
      );
    return performance.now();
  };
  return {
    name,
    samples: [],
    measure: async (directory, signal) => {
      using limit = scope(signal, roundTimeoutMs, `the files of ${name}`);
      running.stdin.write(`${directory}\n`);
      const beginMs = await abortable(wait("begin"), limit.signal);
      const writeMs = await abortable(wait("write"), limit.signal);
      const readMs = await abortable(wait("read"), limit.signal);
      const statMs = await abortable(wait("stat"), limit.signal);
      const rate = (milliseconds: number) => (sizeMiB * 1000) / milliseconds;
      return { write: rate(writeMs - beginMs), read: rate(readMs - writeMs), stat: statMs - readMs };
    },
    [Symbol.asyncDispose]: async () => {
      running.stdin.end();
      await running.ended;
    },
  };
}
