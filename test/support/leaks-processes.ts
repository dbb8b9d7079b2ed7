import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { isMarked, type LeakScope, type Thing } from "./leaks-scope.ts";

interface ProcessEntry {
  readonly pid: number;
  readonly parent: number;
  readonly startTicks: string;
  readonly isZombie: boolean;
  /** Name of the program, cut to 15 characters by the kernel; all that a zombie has. */
  readonly name: string;
  readonly argv: readonly string[];
  /** Path of its executable. */
  readonly program: string;
  /** Everything that can show whose it is: command line, directory, executable, environment. */
  readonly evidence: string;
}

/** Programs that a sandbox is made of, by the name of the executable or of the script that Node runs. */
const programPattern =
  /^(qemu-system-.*|cloud-hyperviso|cloud-hypervisor|virtiofsd|vhost-device-vsock|vhost-device-vs|containerd-shim-caisson.*|containerd-shim|caisson|caisson-oci|crun)$/;

/** The program names of a process: its own, and the script's when it is an interpreter. */
function isKnownProgram(entry: ProcessEntry): boolean {
  const names = [entry.name, ...entry.argv.slice(0, 4).map((argument) => basename(argument))];
  return names.some((name) => programPattern.test(name.replace(/\.(ts|js|mjs|cjs)$/, "")));
}

/**
 * Processes of ours that live, and those that have ended and were not reaped by their parent.
 *
 * Ours: a known program, or anything with a mark. A zombie whose parent is pid 1 is not counted: init reaps when it
 * likes. The test's own processes (this one and its ancestors, and children it waits for) are not counted either, nor is
 * the scope's containerd, which a test may have started again.
 */
export function findProcesses(scope: LeakScope): Thing[] {
  const entries = readProcesses();
  const own = ancestorsOf(process.pid, entries);
  return [...entries.values()].flatMap((entry): Thing[] => {
    const marked = isMarked(scope, entry.evidence);
    if (entry.pid === scope.containerdPid) return [];
    if (own.has(entry.pid) || (!marked && !isKnownProgram(entry))) return [];
    if (entry.isZombie && entry.parent === 1) return [];
    const words = entry.argv.length === 0 ? `[${entry.name}]` : entry.argv.join(" ").slice(0, 300);
    return [
      {
        kind: entry.isZombie ? "zombie" : "process",
        key: `${entry.pid}@${entry.startTicks}`,
        text: `pid ${entry.pid}, parent ${entry.parent}: ${words}`,
        isMarked: marked || hasMarkedAncestor(scope, entry, entries),
      },
    ];
  });
}

/** Pids of live processes that carry a mark of the scope and whose command line matches. */
export function markedProcesses(scope: LeakScope, pattern: RegExp): number[] {
  return [...readProcesses().values()]
    .filter(
      ({ isZombie, evidence, argv, program }) =>
        !isZombie &&
        isMarked(scope, evidence) &&
        // One that was executed by a descriptor has another name in its argv.
        [argv, [program, ...argv.slice(1)]].some((words) => pattern.test(words.join(" "))),
    )
    .map((entry) => entry.pid);
}

function readProcesses(): Map<number, ProcessEntry> {
  const entries = new Map<number, ProcessEntry>();
  for (const name of readdirSync("/proc")) {
    const entry = /^\d+$/.test(name) ? readProcess(Number(name)) : undefined;
    if (entry !== undefined) entries.set(entry.pid, entry);
  }
  return entries;
}

function readProcess(pid: number): ProcessEntry | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name in parentheses may hold spaces and parentheses itself; the fields after it do not (proc(5)).
    const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const isZombie = fields[0] === "Z" || fields[0] === "X";
    const argv = isZombie ? [] : split(read(`/proc/${pid}/cmdline`));
    const program = isZombie ? "" : link(`/proc/${pid}/exe`);
    const places = isZombie ? [] : [link(`/proc/${pid}/cwd`), program, read(`/proc/${pid}/environ`)];
    return {
      pid,
      parent: Number(fields[1]),
      startTicks: fields[19] ?? "",
      isZombie,
      name,
      argv,
      program,
      evidence: [name, ...argv, ...places].join("\n"),
    };
  } catch {
    // It ended while we looked.
    return undefined;
  }
}

function ancestorsOf(pid: number, entries: ReadonlyMap<number, ProcessEntry>): Set<number> {
  const ancestors = new Set<number>();
  for (
    let current = pid;
    current > 0 && !ancestors.has(current);
    current = entries.get(current)?.parent ?? 0
  ) {
    ancestors.add(current);
  }
  return ancestors;
}

function hasMarkedAncestor(
  scope: LeakScope,
  entry: ProcessEntry,
  entries: ReadonlyMap<number, ProcessEntry>,
): boolean {
  return [...ancestorsOf(entry.pid, entries)].some(
    (pid) => pid === process.pid || isMarked(scope, entries.get(pid)?.evidence ?? ""),
  );
}

function split(cmdline: string): string[] {
  return cmdline.split("\0").filter((argument) => argument !== "");
}

function read(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}

function link(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
