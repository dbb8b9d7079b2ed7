import { createHash } from "node:crypto";
import { mkdirSync, readlinkSync, symlinkSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";

export interface UserIdPool {
  readonly stateDirectory: string;
  readonly base: number;
  readonly count: number;
}

/**
 * Takes a user id that no other sandbox has. A symbolic link per id is the lock: it is made whole or not at all, takes no
 * space on the disk, and where it points names the owner, so that the id can be given back from the sandbox's name alone. `onCandidate` is told of each id right before it is
 * tried, to be journalled.
 *
 * @throws resource_exhausted  all are taken
 */
export function takeUserId(pool: UserIdPool, owner: string, onCandidate: (uid: number) => void): number {
  const directory = directoryOf(pool.stateDirectory);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const start = createHash("sha256").update(owner).digest().readUInt32BE(0) % pool.count;
  for (let step = 0; step < pool.count; step++) {
    const uid = pool.base + ((start + step) % pool.count);
    onCandidate(uid);
    try {
      symlinkSync(owner, join(directory, String(uid)));
      return uid;
    } catch (error) {
      if (errnoOf(error) !== "EEXIST") throw error;
    }
  }
  throw new RuntimeError(
    "resource_exhausted",
    `Cannot find a free user id for the VM: all ${pool.count} from ${pool.base} are taken; raise vmm_uid_count`,
  );
}

/** Gives a user id back if `owner` has it. Idempotent. */
export function returnUserId(stateDirectory: string, uid: number, owner: string): void {
  const path = join(directoryOf(stateDirectory), String(uid));
  try {
    if (readlinkSync(path) === owner) unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
  }
}

function directoryOf(stateDirectory: string): string {
  return join(stateDirectory, ".user-ids");
}
