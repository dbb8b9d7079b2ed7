import { statfs } from "node:fs/promises";

export type CgroupVersion = 1 | 2;

/** Magic number of the cgroup2 file system (statfs(2)). */
const cgroup2Magic = 0x6367_7270;

/**
 * The version of cgroups that containerd takes this host to have: 2 when /sys/fs/cgroup itself is the unified hierarchy,
 * else 1, also where both are mounted.
 */
export async function hostCgroupVersion(root = "/sys/fs/cgroup"): Promise<CgroupVersion> {
  const type = await statfs(root).then(
    (stat) => stat.type,
    () => undefined,
  );
  return type === cgroup2Magic ? 2 : 1;
}
