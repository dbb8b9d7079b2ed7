import { constants } from "node:fs";
import { type FileHandle, open, readlink } from "node:fs/promises";
import { errnoOf, RuntimeError } from "../base/errors.ts";

// open(2): the file is only named, not opened; Node has no constant for it. The value is that of every Linux machine
// that Node runs on.
const O_PATH = 0o10000000;

// The kernel's own limit for one path (path_resolution(7)).
const maxLinks = 40;

/**
 * Reads a file of a root file system that we do not trust: every symbolic link is resolved as if `rootfs` were "/",
 * so nothing outside is ever opened, also while somebody changes the tree. Undefined when there is no such file.
 *
 * @throws invalid_argument  not a regular file, larger than `maxBytes`, or a loop of links
 */
export async function readFileInRootfs(
  rootfs: string,
  path: string,
  maxBytes: number,
): Promise<Buffer | undefined> {
  const refuse = (fact: string) =>
    new RuntimeError(
      "invalid_argument",
      `Cannot read "${path}" of the root file system "${rootfs}": ${fact}`,
    );
  const handles: FileHandle[] = [await open(rootfs, O_PATH | constants.O_DIRECTORY)];
  try {
    const found = await walk(handles, path, refuse);
    if (found === undefined) return undefined;
    const status = await found.stat();
    if (!status.isFile()) throw refuse("it is not a regular file");
    if (status.size > maxBytes) throw refuse(`it has ${status.size} bytes, at most ${maxBytes} are accepted`);
    await using file = await open(`/proc/self/fd/${found.fd}`, constants.O_RDONLY | constants.O_NONBLOCK);
    const buffer = Buffer.alloc(status.size);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    for (const handle of handles) await handle.close();
  }
}

/**
 * Walks component by component; `stack` holds the handles from the root to where we are, and those opened last are
 * closed by the caller.
 */
async function walk(
  stack: FileHandle[],
  path: string,
  refuse: (fact: string) => RuntimeError,
): Promise<FileHandle | undefined> {
  const left = components(path);
  for (let links = 0; ; ) {
    const name = left.shift();
    const here = stack.at(-1);
    if (name === undefined || here === undefined) return here;
    if (name === "..") {
      if (stack.length > 1) await stack.pop()?.close();
      continue;
    }
    const next = await openChild(here, name);
    if (next === undefined) return undefined;
    stack.push(next);
    if (!(await next.stat()).isSymbolicLink()) continue;
    if (++links > maxLinks) throw refuse(`it has more than ${maxLinks} symbolic links`);
    const target = await readlink(`/proc/self/fd/${here.fd}/${name}`);
    await stack.pop()?.close();
    if (target.startsWith("/")) while (stack.length > 1) await stack.pop()?.close();
    left.unshift(...components(target));
  }
}

function components(path: string): string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}

async function openChild(directory: FileHandle, name: string): Promise<FileHandle | undefined> {
  try {
    return await open(`/proc/self/fd/${directory.fd}/${name}`, O_PATH | constants.O_NOFOLLOW);
  } catch (error) {
    if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR") return undefined;
    throw error;
  }
}
