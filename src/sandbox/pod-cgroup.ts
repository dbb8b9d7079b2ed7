import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cgroupMountPoint, hierarchiesIn, hostCgroupVersion } from "../base/cgroups.ts";
import { asError, errnoOf, RuntimeError } from "../base/errors.ts";
import { ignore, removeDirectory, systemErrorCode } from "../base/files.ts";
import type { Log } from "../base/log.ts";

/** The cgroup on the host that holds a sandbox's VMM and its helpers. */
export interface PodCgroup {
  /** Begins to move a process with all its threads. What it starts later is in there, too. */
  add(pid: number): void;
  /**
   * Resolves when all that were added are in there; one that has ended meanwhile is no error.
   *
   * @throws permission_denied, resource_exhausted  it does not take a process
   */
  moved(): Promise<void>;
  /** Whether the host's OOM killer has ended a process in it. */
  wasOomKilled(): Promise<boolean>;
}

/** A cgroup in one hierarchy. */
export interface CgroupPlace {
  /** Where the hierarchy is mounted. */
  readonly hierarchy: string;
  /** Path below it. */
  readonly place: string;
}

export interface PodCgroupOptions {
  /** Told of each cgroup before anything of it is made, to journal it. */
  readonly onMake: (made: CgroupPlace) => void;
  /** Told when the host has no cgroups. */
  readonly log?: Log;
  /** Where the cgroup file systems are mounted. */
  readonly root?: string;
}

/** Those that account or limit; with cgroup v1 each has a hierarchy, or shares one. */
const controllersV1 = ["memory", "cpu", "cpuacct", "cpuset", "blkio", "pids", "hugetlb"];
const controllersV2 = ["memory", "cpu", "cpuset", "io", "pids", "hugetlb"];
/**
 * Marks the directories that we make, so that nobody else's is removed: the sticky bit has no meaning in a cgroup file system,
 * where nothing but directories can be made.
 */
const markedMode = 0o1755;
const stickyBit = 0o1000;
/** How often others may remove a parent under us. */
const makeAttempts = 8;
/** For killed processes to have left. */
const emptyTimeoutMs = 2_000;

/**
 * Makes the cgroup at a place (see `placeOfCgroup`), in every hierarchy that accounts or limits (cgroup v1) or the unified one. Limits
 * are not set: those of the containers hold in the guest, those of the pod are set on the parent by whoever manages it.
 *
 * @throws permission_denied  the cgroup file system is read-only, or not ours to change
 */
export async function makePodCgroup(place: string, options: PodCgroupOptions): Promise<PodCgroup> {
  const { onMake, log, root = cgroupMountPoint } = options;
  const hierarchies = await hierarchiesFor(root);
  if (hierarchies.length === 0) log?.warn({ root }, "the host has no cgroups: nothing accounts for the VM");
  for (const hierarchy of hierarchies) {
    onMake({ hierarchy, place });
    await makeBelow(hierarchy, place);
  }
  const moves: Promise<void>[] = [];
  const directories = hierarchies.map((hierarchy) => join(hierarchy, place));
  // One after the other: the kernel has them wait for each other anyway, and each would hold a thread of libuv's few meanwhile.
  let last: Promise<unknown> = Promise.resolve();
  return {
    add: (pid) => {
      const move = last.then(() => moveToAll(pid, directories));
      last = move.catch(() => {});
      // Whoever asks for the outcome gets it.
      moves.push(move);
    },
    moved: async () => {
      await Promise.all(moves);
    },
    wasOomKilled: async () => {
      const answers = await Promise.all(
        hierarchies.flatMap((hierarchy) =>
          ["memory.events", "memory.oom_control"].map((name) => oomKillsIn(join(hierarchy, place, name))),
        ),
      );
      return answers.some((kills) => kills > 0);
    },
  };
}

/** Of cgroup v2 and v1, in a line each; 0 where there is no such file. */
async function oomKillsIn(path: string): Promise<number> {
  const text = await readFile(path, "utf8").catch(() => "");
  return Number(/^oom_kill (\d+)$/m.exec(text)?.[1] ?? 0);
}

async function hierarchiesFor(root: string): Promise<string[]> {
  const mounted = await hierarchiesIn(root);
  if ((await hostCgroupVersion(root)) === 2) return mounted;
  const controllersOf = (path: string) => basename(path).split(",");
  const wanted = mounted.filter((path) => controllersOf(path).some((name) => controllersV1.includes(name)));
  // What a process has taken before it is moved stays with the cgroup that it was in: memory comes first.
  const rank = (path: string) => (controllersOf(path).includes("memory") ? 0 : 1);
  return wanted.sort((a, b) => rank(a) - rank(b));
}

/**
 * Removes cgroups that were journalled, and those around them that we have made and nobody uses any more. To be called when the
 * processes are dead.
 */
export async function removePodCgroup(made: readonly CgroupPlace[]): Promise<void> {
  for (const { hierarchy, place } of made) {
    const [own = "", ...around] = directoriesOf(hierarchy, place).toReversed();
    const deadline = performance.now() + emptyTimeoutMs;
    while (!(await removed(own))) {
      if (performance.now() > deadline) throw new Error(`Cannot remove cgroup "${own}": it is in use`);
      // Only cgroup v2 has an event for it.
      await sleep(20);
    }
    for (const directory of around) if (!(await removed(directory))) break;
  }
}

/** False: it is in use. One that is not ours is left as it is. */
async function removed(directory: string): Promise<boolean> {
  try {
    if (((await stat(directory)).mode & stickyBit) !== 0) await removeDirectory(directory);
    return true;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return true;
    ignore("EBUSY", "ENOTEMPTY")(error);
    return false;
  }
}

/** From the outermost to the cgroup itself. */
function directoriesOf(hierarchy: string, place: string): string[] {
  const levels = place.split("/").slice(1);
  return levels.map((_, index) => join(hierarchy, ...levels.slice(0, index + 1)));
}

async function makeBelow(hierarchy: string, place: string): Promise<void> {
  const directories = directoriesOf(hierarchy, place);
  for (let attempt = 1; ; attempt++) {
    try {
      let parent = hierarchy;
      for (const directory of directories) {
        await enableControllers(parent);
        await mkdir(directory, { mode: markedMode }).catch(ignore("EEXIST"));
        if (basename(hierarchy).split(",").includes("cpuset")) await inheritCpuset(parent, directory);
        parent = directory;
      }
      return;
    } catch (cause) {
      // The last sandbox in a parent takes it along.
      if (errnoOf(cause) === "ENOENT" && attempt < makeAttempts) continue;
      const path = directories.at(-1) ?? hierarchy;
      throw new RuntimeError(
        systemErrorCode(cause),
        `Cannot make cgroup "${path}": ${asError(cause).message}; without it the limits of the pod would not hold ("host_cgroup = false" goes without)`,
        { cause },
      );
    }
  }
}

/** cgroup v2: without it the children of a cgroup have no numbers of their own. One that may not is left as it is. */
async function enableControllers(directory: string): Promise<void> {
  const available = await readFile(join(directory, "cgroup.controllers"), "utf8").catch(() => "");
  const enabled = await readFile(join(directory, "cgroup.subtree_control"), "utf8").catch(() => "");
  const words = (text: string) => text.split(/\s+/);
  for (const name of controllersV2) {
    if (!words(available).includes(name) || words(enabled).includes(name)) continue;
    await writeFile(join(directory, "cgroup.subtree_control"), `+${name}`).catch(() => {});
  }
}

/** cgroup v1: nothing can be moved into a cpuset without CPUs and memory nodes (cpuset(7)). */
async function inheritCpuset(parent: string, directory: string): Promise<void> {
  for (const name of ["cpuset.cpus", "cpuset.mems"]) {
    const own = await readFile(join(directory, name), "utf8");
    if (own.trim() !== "") continue;
    await writeFile(join(directory, name), await readFile(join(parent, name), "utf8"));
  }
}

async function moveToAll(pid: number, directories: readonly string[]): Promise<void> {
  for (const directory of directories) await move(pid, directory);
}

async function move(pid: number, directory: string): Promise<void> {
  try {
    await writeFile(join(directory, "cgroup.procs"), String(pid));
  } catch (cause) {
    if (errnoOf(cause) === "ESRCH") return;
    throw new RuntimeError(systemErrorCode(cause), `Cannot move process ${pid} into cgroup "${directory}"`, {
      cause,
    });
  }
}
