import { createWriteStream } from "node:fs";
import { constants, type FileHandle, mkdir, open, rmdir, symlink, unlink } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { ignore } from "../base/files.ts";

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;

/**
 * A directory of this machine that files are put into whose names somebody else has chosen. Every step goes through the open
 * directory before it and follows no symbolic link, so that nothing outside is reached, also while somebody changes the tree.
 */
export class HostTree implements AsyncDisposable {
  readonly #root: FileHandle;
  /** The directory that was used last: entries of one directory follow each other. */
  #last: { readonly path: string; readonly handle: FileHandle } | undefined;

  private constructor(root: FileHandle) {
    this.#root = root;
  }

  /** Opens the directory, which is made when missing; symbolic links in its own path are the caller's. */
  static async open(path: string): Promise<HostTree> {
    await mkdir(path, { recursive: true });
    return new HostTree(await open(path, O_RDONLY | O_DIRECTORY));
  }

  /** Makes a directory with its parents; one that is there stays as it is. */
  async addDirectory(parts: readonly string[], mode: number): Promise<void> {
    const parent = await this.#directory(parts.slice(0, -1));
    await mkdir(at(parent, parts), { mode: (mode & 0o777) | 0o700 }).catch(ignore("EEXIST"));
    await this.#directory(parts);
  }

  /** Writes a file; one that is there, or a link, makes room. */
  async addFile(parts: readonly string[], mode: number, content: AsyncIterable<Uint8Array>): Promise<void> {
    const path = at(await this.#directory(parts.slice(0, -1)), parts);
    const create = () => open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode & 0o777);
    const handle = await replacing(path, create);
    await pipeline(content, createWriteStream("", { fd: handle, autoClose: true }));
  }

  async addLink(parts: readonly string[], target: string): Promise<void> {
    const path = at(await this.#directory(parts.slice(0, -1)), parts);
    await replacing(path, () => symlink(target, path));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last?.handle.close();
    this.#last = undefined;
    await this.#root.close();
  }

  /** @throws invalid_argument  a part of the path is no directory, or a link to one */
  async #directory(parts: readonly string[]): Promise<FileHandle> {
    if (parts.length === 0) return this.#root;
    const path = parts.join("/");
    if (this.#last?.path === path) return this.#last.handle;
    let here = this.#root;
    for (const [index, name] of parts.entries()) {
      const next = await openChild(here, name).catch((cause: unknown) => {
        const known = ["ELOOP", "ENOTDIR"].includes(errnoOf(cause) ?? "");
        throw new RuntimeError(
          known ? "invalid_argument" : "internal",
          `Cannot put "${path}" there: "${parts.slice(0, index + 1).join("/")}" is a link or no directory`,
          { cause },
        );
      });
      if (here !== this.#root) await here.close();
      here = next;
    }
    await this.#last?.handle.close();
    this.#last = { path, handle: here };
    return here;
  }
}

function at(directory: FileHandle, parts: readonly string[]): string {
  return `/proc/self/fd/${directory.fd}/${parts.at(-1)}`;
}

async function openChild(directory: FileHandle, name: string): Promise<FileHandle> {
  const path = at(directory, [name]);
  const enter = () => open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    return await enter();
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
    await mkdir(path).catch(ignore("EEXIST"));
    return await enter();
  }
}

async function replacing<T>(path: string, make: () => Promise<T>): Promise<T> {
  try {
    return await make();
  } catch (error) {
    if (errnoOf(error) !== "EEXIST") throw error;
    // An empty directory makes room as well.
    await unlink(path).catch(async (cause: unknown) => {
      ignore("EISDIR", "EPERM")(cause);
      await rmdir(path);
    });
    return await make();
  }
}
