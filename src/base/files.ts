import { randomBytes } from "node:crypto";
import { closeSync, constants, openSync } from "node:fs";
import { open, readdir, rename, rm, rmdir, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { errnoOf, RuntimeError } from "./errors.ts";

/** Writes a file so that a reader sees the old or the new content, never a part. */
export async function writeFileAtomic(path: string, content: string, mode = 0o600): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString("hex")}`;
  try {
    const file = await open(temporary, "wx", mode);
    try {
      await file.writeFile(content);
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new RuntimeError(systemErrorCode(cause), `Cannot write "${path}"`, { cause });
  }
}

/**
 * Reads a regular file of at most `maxBytes`, without following a final symbolic link and without ever blocking on
 * a FIFO.
 *
 * @throws not_found, invalid_argument (not a regular file, too large), permission_denied
 */
export async function readRegularFile(path: string, maxBytes: number): Promise<Buffer> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const stat = await file.stat();
    if (!stat.isFile()) {
      throw new RuntimeError("invalid_argument", `Cannot read "${path}": it is not a regular file`);
    }
    if (stat.size > maxBytes) {
      throw new RuntimeError(
        "invalid_argument",
        `Cannot read "${path}": it has ${stat.size} bytes, at most ${maxBytes} are accepted`,
      );
    }
    return await file.readFile();
  } catch (cause) {
    if (cause instanceof RuntimeError) throw cause;
    if (errnoOf(cause) === "ELOOP") {
      throw new RuntimeError("invalid_argument", `Cannot read "${path}": it is a symbolic link`);
    }
    if (errnoOf(cause) === "ENXIO") {
      throw new RuntimeError("invalid_argument", `Cannot read "${path}": it is a socket`);
    }
    throw new RuntimeError(systemErrorCode(cause), `Cannot read "${path}"`, { cause });
  }
}

/** Removes one file; being gone already is success. */
export async function removeFile(path: string): Promise<void> {
  await unlink(path).catch(ignore("ENOENT"));
}

/**
 * Removes a file, and what those have left that were killed while they made it: files of its name with a point and more behind.
 * Not being there is fine.
 */
export async function removeFileAndTorn(path: string): Promise<void> {
  const names = await readdir(dirname(path)).catch(() => []);
  const torn = names.filter((name) => name.startsWith(`${basename(path)}.`));
  for (const name of [basename(path), ...torn]) await rm(join(dirname(path), name), { force: true });
}

/** Removes one empty directory; being gone already is success. */
export async function removeDirectory(path: string): Promise<void> {
  await rmdir(path).catch(ignore("ENOENT"));
}

/** A rejection handler that swallows the given errno codes and passes everything else on. */
export function ignore(...codes: string[]): (error: unknown) => undefined {
  return (error) => {
    const code = errnoOf(error);
    if (code !== undefined && codes.includes(code)) return undefined;
    throw error;
  };
}

/** Translates a Node system error to our kind of failure. */
export function systemErrorCode(error: unknown) {
  switch (errnoOf(error)) {
    case "ENOENT":
    case "ENOTDIR":
      return "not_found";
    case "EEXIST":
      return "already_exists";
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return "permission_denied";
    case "ENOSPC":
    case "EMFILE":
    case "ENFILE":
    case "EDQUOT":
    case "EAGAIN":
    case "ENOMEM":
      return "resource_exhausted";
    default:
      return "internal";
  }
}

/** A directory by a path of a few characters, valid in this process until it is disposed. */
export interface ShortPath extends Disposable {
  readonly path: string;
}

/** The path of a unix socket is at most 107 bytes long (unix(7)), and ids can have 76 characters each. */
export function openShortPath(directory: string): ShortPath {
  const fd = openSync(directory, "r");
  return { path: `/proc/self/fd/${fd}`, [Symbol.dispose]: () => closeSync(fd) };
}
