import { existsSync, fstatSync, readdirSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Sandbox, type SandboxOptions, Template } from "../../src/index.ts";
import { readJournal } from "../../src/sandbox/journal.ts";
import { sandboxPaths } from "../../src/sandbox/paths.ts";
import { image } from "../support/cli.ts";
import { type Bench, type Benchmark, eachRound } from "./bench.ts";
import { removeErofs } from "./library.ts";
import { readRollup } from "./rollup.ts";
import { makeRow, type Row } from "./rows.ts";
import { ms } from "./runtimes.ts";

const sandboxes = 10;
/** Until what a start has left to do in the background is done. */
const settleMs = 5_000;

/** Sandboxes of a template beside booted ones, by the library: how long they take to be made, and their memory. */
export const templates: Benchmark = {
  name: "templates",
  async run(bench) {
    if (!existsSync("/dev/vhost-vsock")) {
      bench.progress("templates: not measured, this kernel has no vhost-vsock; the lab has it");
      return [];
    }
    process.env["CAISSON_CONFIG"] = bench.cli.dir.join("caisson.toml");
    const rows = [...(await measureStarts(bench)), ...(await measureMemory(bench))];
    await removeErofs(bench);
    return rows;
  },
};

const cold: SandboxOptions = { image, storage: "erofs", onLog: () => {} };
const makeTemplate = () => Template.create({ image, onLog: () => {} });
const from = (template: Template): SandboxOptions => ({ template, onLog: () => {} });

async function measureStarts(bench: Bench): Promise<Row[]> {
  const group = "warm start from a template";
  const [booted, saved, restored]: [number[], number[], number[]] = [[], [], []];
  const timeTo = async <T extends AsyncDisposable>(samples: number[], make: () => Promise<T>): Promise<T> => {
    const beginMs = performance.now();
    const made = await make();
    samples.push(performance.now() - beginMs);
    return made;
  };
  const timeToRun = (samples: number[], options: SandboxOptions) =>
    timeTo(samples, async () => {
      const sandbox = await Sandbox.create(options);
      await sandbox.run("true");
      return sandbox;
    });
  // The image's disk is made before anything is measured.
  await (await Sandbox.create(cold)).close();
  await eachRound(bench, group, bench.runs, async () => {
    await (await timeToRun(booted, cold)).close();
    await using template = await timeTo(saved, makeTemplate);
    await (await timeToRun(restored, from(template))).close();
    return `booted ${ms(booted.at(-1) ?? 0)}, from a template ${ms(restored.at(-1) ?? 0)}`;
  });
  return [
    makeRow(group, 'booted: create, run("true")', "ms", booted),
    makeRow(group, 'from a template: create, run("true")', "ms", restored, {
      floor: booted,
      goal: { of: "ratio", is: "at most", value: 0.2 },
    }),
    makeRow(group, "the template itself", "ms", saved),
  ];
}

/** Of the VMMs, with the guests' memory: the daemon is this program. */
async function measureMemory(bench: Bench): Promise<Row[]> {
  const group = `memory of ${sandboxes} idle sandboxes together, their guests' included`;
  const measure = async (options: SandboxOptions, sharedMiB: () => number | undefined) => {
    await using made = new AsyncDisposableStack();
    const pids: number[] = [];
    for (let number = 1; number <= sandboxes; number++) {
      bench.signal.throwIfAborted();
      pids.push(vmmOf(bench, made.use(await Sandbox.create(options))));
      bench.progress(`${group}: started ${number}/${sandboxes}`);
    }
    await sleep(settleMs, undefined, { signal: bench.signal });
    const parts = pids.map(readRollup);
    const own = parts.reduce((sum, part) => sum + part.ownMiB, 0);
    // What the guests share counts once and whole, also what none of them has looked at.
    return own + (sharedMiB() ?? parts.reduce((sum, part) => sum + part.sharedMiB, 0));
  };
  const bootedMiB = await measure(cold, () => undefined);
  await using template = await makeTemplate();
  const templateMiB = await measure(from(template), savedMiB);
  return [
    makeRow(group, "booted", "MiB", [bootedMiB]),
    makeRow(group, "from one template", "MiB", [templateMiB], {
      floor: [bootedMiB],
      goal: { of: "ratio", is: "at most", value: 0.5 },
    }),
    makeRow(group, "… of which the template", "MiB", [savedMiB()]),
  ];
}

function vmmOf({ config }: Bench, { id }: Sandbox): number {
  const entries = readJournal(sandboxPaths(config.stateDirectory, "library", id).directory);
  const vmm = entries.find((entry) => entry.kind === "process" && entry.name === "qemu");
  if (vmm?.kind !== "process") throw new Error(`The journal of ${id} has no VMM`);
  return vmm.identity.pid;
}

/** What the files in memory of this process hold that VMs are restored from. */
function savedMiB(): number {
  const bytes = readdirSync("/proc/self/fd")
    .map(Number)
    .filter((fd) => isSaved(fd))
    .reduce((sum, fd) => sum + fstatSync(fd).blocks * 512, 0);
  return bytes / 1024 ** 2;
}

function isSaved(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith("/memfd:caisson-");
  } catch {
    // The one that the directory was read by.
    return false;
  }
}
