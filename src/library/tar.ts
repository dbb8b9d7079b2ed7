import { constants, type FileHandle, lstat, open, readdir, readlink } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { pack, type Pack } from "tar-stream";
import { asError, errnoOf, RuntimeError } from "../base/errors.ts";

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
/** Read at once: of large files most of the time is spent between the reads. */
const readBytes = 256 * 1024;

/**
 * The content of a directory of this machine as a tar stream, symbolic links as such; sockets, FIFOs and devices are left out.
 * Every step goes through the open directory before it and follows no link, so that nothing outside gets in, also while somebody
 * changes the tree; who does so makes it fail.
 */
export function tarOf(directory: string): Readable {
  const packer = pack();
  void addTree(packer, directory).then(
    () => packer.finalize(),
    (error: unknown) => packer.destroy(asError(error)),
  );
  return Readable.from(packer, { objectMode: false });
}

async function addTree(packer: Pack, directory: string): Promise<void> {
  await using root = await open(directory, O_RDONLY | O_DIRECTORY);
  await addContent(packer, root, "");
}

async function addContent(packer: Pack, directory: FileHandle, prefix: string): Promise<void> {
  const here = `/proc/self/fd/${directory.fd}`;
  for (const entry of (await readdir(here)).sort()) {
    const path = `${here}/${entry}`;
    const name = `${prefix}${entry}`;
    const stat = await lstat(path);
    const header = { name, mode: stat.mode & 0o7777, mtime: stat.mtime };
    if (stat.isDirectory()) {
      await using inner = await openSame(path, name, O_DIRECTORY);
      packer.entry({ ...header, name: `${name}/`, type: "directory" });
      await addContent(packer, inner, `${name}/`);
    } else if (stat.isSymbolicLink()) {
      packer.entry({ ...header, type: "symlink", linkname: await readlink(path) });
    } else if (stat.isFile()) {
      await using file = await openSame(path, name, O_NONBLOCK);
      const { size } = await file.stat();
      const content = file.createReadStream({ autoClose: false, highWaterMark: readBytes });
      await pipeline(content, packer.entry({ ...header, size }));
    }
  }
}

/** What was a file or directory a moment ago. */
async function openSame(path: string, name: string, flags: number): Promise<FileHandle> {
  return await open(path, O_RDONLY | O_NOFOLLOW | flags).catch((cause: unknown) => {
    if (!["ELOOP", "ENOTDIR", "ENXIO"].includes(errnoOf(cause) ?? "")) throw cause;
    throw new RuntimeError("canceled", `Cannot copy "${name}": it has become something else meanwhile`, {
      cause,
    });
  });
}
