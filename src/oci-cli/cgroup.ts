/** The cgroup that a container's configuration names holds what stands for the container on the host, as it would its process. */
import { appendFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { ignore } from "../base/files.ts";
import type { Config } from "../config/config.ts";
import type { Spec } from "../oci/spec.ts";
import { cgroupPlaceOf } from "../sandbox/cgroup-path.ts";
import { type CgroupPlace, makePodCgroup, removePodCgroup } from "../sandbox/pod-cgroup.ts";

/**
 * Moves a process there. What is made is noted first, a JSON line each, in the file `notes`. The daemon has the VM in the same
 * one, if the sandbox is this container's.
 *
 * @throws permission_denied  the cgroup file system is read-only, or not ours to change
 */
export async function enterCgroup(spec: Spec, config: Config, pid: number, notes: string): Promise<void> {
  const place = cgroupPlaceOf(spec, config);
  if (place === undefined) return;
  const onMake = (made: CgroupPlace) => appendFileSync(notes, `${JSON.stringify(made)}\n`, { mode: 0o600 });
  const cgroup = await makePodCgroup(place, { onMake });
  cgroup.add(pid);
  await cgroup.moved();
}

/** Removes what was noted; those in there have ended, or end now. Idempotent. */
export async function removeCgroup(notes: string): Promise<void> {
  const text = (await readFile(notes, "utf8").catch(ignore("ENOENT"))) ?? "";
  // What stands behind the last line end was cut.
  const lines = text.split("\n").slice(0, -1);
  await removePodCgroup(lines.map((line) => JSON.parse(line) as CgroupPlace));
}
