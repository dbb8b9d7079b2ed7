import { constants, type Stats } from "node:fs";
import { access, open, realpath, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";

/** A program, ready to be executed by a user that may not reach its path. */
export interface Program extends AsyncDisposable {
  /** Descriptor to hand to the child, only where the path alone does not do. */
  readonly fd: number | undefined;
  /** What to execute, when the child has `fd` under the number `childFd`. */
  path(childFd: number): string;
}

/**
 * Finds a program that is to run as an unprivileged user. Where a directory above it is closed to others (a checkout
 * or a cache in root's home), it is executed through an inherited descriptor: `ps` then shows `/proc/self/fd/…`.
 *
 * @throws not_found  it is not there or not executable; `advice` says how to get it
 */
export async function openProgram(name: string, path: string, advice: string): Promise<Program> {
  try {
    await access(path, constants.X_OK);
    const target = await realpath(path);
    if (await isReachable(target)) {
      return { fd: undefined, path: () => path, [Symbol.asyncDispose]: async () => {} };
    }
    const file = await open(target, constants.O_RDONLY);
    return {
      fd: file.fd,
      path: (childFd) => `/proc/self/fd/${childFd}`,
      [Symbol.asyncDispose]: () => file.close(),
    };
  } catch (cause) {
    const errno = errnoOf(cause);
    const fact = errno === "ENOENT" || errno === "ENOTDIR" ? "is not there" : `cannot be executed (${errno})`;
    throw new RuntimeError("not_found", `Cannot start ${name}: "${path}" ${fact}; ${advice}`, { cause });
  }
}

/** Whether every directory above the file can be passed by everybody. */
async function isReachable(path: string): Promise<boolean> {
  for (let directory = dirname(path); ; directory = dirname(directory)) {
    if (!canPass(await stat(directory))) return false;
    if (directory === "/") return true;
  }
}

function canPass({ mode }: Stats): boolean {
  return (mode & constants.S_IXOTH) !== 0;
}
