import { runChild } from "../base/child.ts";
import { RuntimeError } from "../base/errors.ts";
import { mountsBelow, unmountAllBelow } from "./mount.ts";

const removalTimeoutMs = 600_000;

/**
 * Deletes a directory with everything in it; being gone already is success.
 *
 * What is mounted in it is unmounted first: deleting through a mount would destroy what is behind it, silently.
 * rm(1) does the work, because it takes file names of any bytes and trees of any depth, and never leaves the file system.
 */
export async function removeTree(directory: string): Promise<void> {
  unmountAllBelow(directory);
  const left = mountsBelow(directory);
  if (left.length > 0) {
    throw new RuntimeError(
      "failed_precondition",
      `Cannot remove "${directory}": "${left[0]}" is still mounted`,
    );
  }
  await runChild(["rm", "-rf", "--one-file-system", "--", directory], {
    action: `remove "${directory}"`,
    cwd: "/",
    timeoutMs: removalTimeoutMs,
  });
}
