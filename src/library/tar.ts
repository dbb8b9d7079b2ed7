import { createReadStream } from "node:fs";
import { lstat, readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { pack, type Pack } from "tar-stream";
import { asError } from "../base/errors.ts";

/**
 * The content of a directory of this machine as a tar stream, symbolic links as such; sockets, FIFOs and devices are left out.
 * Fails when a file changes its size meanwhile.
 */
export function tarOf(directory: string): Readable {
  const packer = pack();
  void addContent(packer, directory, "").then(
    () => packer.finalize(),
    (error: unknown) => packer.destroy(asError(error)),
  );
  return Readable.from(packer, { objectMode: false });
}

async function addContent(packer: Pack, directory: string, prefix: string): Promise<void> {
  for (const name of (await readdir(directory)).sort()) {
    const path = join(directory, name);
    const stat = await lstat(path);
    const header = { name: `${prefix}${name}`, mode: stat.mode & 0o7777, mtime: stat.mtime };
    if (stat.isDirectory()) {
      packer.entry({ ...header, name: `${header.name}/`, type: "directory" });
      await addContent(packer, path, `${header.name}/`);
    } else if (stat.isSymbolicLink()) {
      packer.entry({ ...header, type: "symlink", linkname: await readlink(path) });
    } else if (stat.isFile()) {
      const entry = packer.entry({ ...header, size: stat.size });
      await pipeline(createReadStream(path), entry);
    }
  }
}
