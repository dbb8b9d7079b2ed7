import { existsSync } from "node:fs";
import { readdir, statfs, writeFile } from "node:fs/promises";
import { join, normalize } from "node:path";
import { RuntimeError } from "./errors.ts";
import { systemErrorCode } from "./files.ts";

export type CgroupVersion = 1 | 2;

/** Magic number of the cgroup2 file system (statfs(2)). */
const cgroup2Magic = 0x6367_7270;
export const cgroupMountPoint = "/sys/fs/cgroup";

/**
 * The version of cgroups that containerd takes this host to have: 2 when /sys/fs/cgroup itself is the unified hierarchy,
 * else 1, also where both are mounted.
 */
export async function hostCgroupVersion(root = cgroupMountPoint): Promise<CgroupVersion> {
  const type = await statfs(root).then(
    (stat) => stat.type,
    () => undefined,
  );
  return type === cgroup2Magic ? 2 : 1;
}

/**
 * Moves a process into a cgroup that exists, with whatever it will start: on a host with cgroup v1 in every hierarchy
 * that has it.
 *
 * @throws invalid_argument  not the path of a cgroup
 * @throws not_found         no hierarchy has it
 */
export async function joinCgroup(path: string, pid: number, root = cgroupMountPoint): Promise<void> {
  const refuse = (fact: string) =>
    new RuntimeError("invalid_argument", `Cannot use the cgroup ${JSON.stringify(path)}: ${fact}`);
  if (!path.startsWith("/") || path.includes("\0") || normalize(path) !== path) {
    throw refuse('expected an absolute path without ".." and "//"');
  }
  const hierarchies = await hierarchiesIn(root);
  const files = hierarchies.map((hierarchy) => join(hierarchy, path, "cgroup.procs")).filter(existsSync);
  if (files.length === 0) {
    throw new RuntimeError(
      "not_found",
      `Cannot move process ${pid} into the cgroup ${JSON.stringify(path)}: there is none below "${root}"; it must be made first`,
    );
  }
  for (const file of files) {
    try {
      await writeFile(file, String(pid));
    } catch (cause) {
      throw new RuntimeError(systemErrorCode(cause), `Cannot move process ${pid} into "${file}"`, { cause });
    }
  }
}

/** The unified hierarchy, or those of cgroup v1, each of them a mount. None where there is no cgroup file system. */
export async function hierarchiesIn(root: string): Promise<string[]> {
  if ((await hostCgroupVersion(root)) === 2) return [root];
  const entries = await readdir(root, { withFileTypes: true }).catch(() => []);
  // "cpu" may be a link to "cpu,cpuacct".
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(root, entry.name));
}
