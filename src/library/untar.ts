import { randomBytes } from "node:crypto";
import { createWriteStream } from "node:fs";
import { rename, rm } from "node:fs/promises";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { type Extract, extract, type Header } from "tar-stream";
import { RuntimeError } from "../base/errors.ts";
import { HostTree } from "./host-tree.ts";

/** Bounds for what comes out of a sandbox. */
export interface CopyOutLimits {
  /** Bytes of all files together. */
  readonly maxBytes: number;
  /** Files, directories and links together. */
  readonly maxEntries: number;
  /** What to do with a symbolic link that leads, or could lead, out of the directory. */
  readonly unsafeLinks: "refuse" | "skip";
}

/** The kernel's limit for one path. */
const maxNameLength = 4095;

/**
 * Puts a tar stream of the guest into this machine's files: its first entry is "./" for the content of a directory, which goes into
 * the directory `target`; else it is one file, which becomes `target`.
 *
 * @throws invalid_argument    an entry that reaches out of the directory, is neither file, directory nor symbolic link, or
 *                             has a name that is no path
 * @throws resource_exhausted  more than the limits allow
 */
export async function untar(stream: Readable, target: string, limits: CopyOutLimits): Promise<void> {
  const parser = extract();
  // Seen by the loop over its entries.
  parser.on("error", () => {});
  stream.on("error", (error) => parser.destroy(error));
  // Node's pipeline does not notice it when the parser has yet to take something.
  stream.once("close", () => {
    if (!stream.readableEnded) parser.destroy(new Error("it breaks off"));
  });
  stream.pipe(parser as unknown as NodeJS.WritableStream);
  try {
    await unpack(parser, target, limits);
  } catch (error) {
    stream.destroy();
    if (error instanceof RuntimeError) throw error;
    throw new RuntimeError("invalid_argument", `Cannot copy to "${target}": the guest's archive is broken`, {
      cause: error,
    });
  }
}

async function unpack(parser: Extract, target: string, limits: CopyOutLimits): Promise<void> {
  let tree: HostTree | undefined;
  let count = 0;
  const budget = { left: limits.maxBytes, total: limits.maxBytes };
  try {
    for await (const entry of parser) {
      const { header } = entry;
      entry.on("error", () => {});
      if (++count > limits.maxEntries) throw exhausted(`it has more than ${limits.maxEntries} entries`);
      if (count === 1 && header.type === "file" && !header.name.includes("/")) {
        await replaceFile(target, bounded(entry, budget), header.mode);
      } else if (count === 1) {
        // Its first entry is the directory itself.
        tree = await HostTree.open(target);
        entry.resume();
      } else if (tree === undefined) {
        throw refuse(header.name, "nothing may follow a single file");
      } else {
        await add(tree, entry, limits, budget);
      }
    }
  } finally {
    await tree?.[Symbol.asyncDispose]();
  }
}

/** Of the archive: what it is called, and its content. */
interface Entry extends AsyncIterable<unknown> {
  readonly header: Header;
  resume(): unknown;
}

interface Budget {
  left: number;
  readonly total: number;
}

async function add(tree: HostTree, entry: Entry, limits: CopyOutLimits, budget: Budget): Promise<void> {
  const { name, type, mode, linkname } = entry.header;
  const parts = cleanPath(name);
  switch (type) {
    case "directory":
      if (parts.length > 0) await tree.addDirectory(parts, mode);
      break;
    case "file":
    case "contiguous-file":
      if (parts.length === 0) throw refuse(name, "it has no name");
      await tree.addFile(parts, mode, bounded(entry, budget));
      return;
    case "symlink":
      if (isSafeLink(parts, linkname)) await tree.addLink(parts, linkname);
      else if (limits.unsafeLinks === "refuse")
        throw refuse(
          name,
          `its link leads to ${JSON.stringify(linkname.slice(0, 200))}, which may be outside`,
        );
      break;
    default:
      throw refuse(name, `it is a ${type}; files, directories and symbolic links can be copied`);
  }
  entry.resume();
}

/**
 * Whether a link stays in the tree whatever other links there are: relative, and going up only at its beginning, where each
 * ".." leaves a directory that is no link, and not further than to the top.
 */
export function isSafeLink(parts: readonly string[], target: string): boolean {
  if (target === "" || target.startsWith("/") || target.includes("\0") || target.length > maxNameLength)
    return false;
  const names = target.split("/").filter((name) => name !== "" && name !== ".");
  const down = names.findIndex((name) => name !== "..");
  const ups = down === -1 ? names.length : down;
  return ups < parts.length && !names.slice(ups).includes("..");
}

function cleanPath(name: string): string[] {
  if (name.length > maxNameLength || name.includes("\0")) throw refuse(name, "its name is no path");
  const parts = name.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..")) throw refuse(name, 'its name holds ".."');
  return parts;
}

/** Written beside it and moved into place, so that a reader never sees a part. */
async function replaceFile(target: string, content: AsyncIterable<Uint8Array>, mode: number): Promise<void> {
  const temporary = `${target}.${randomBytes(4).toString("hex")}`;
  try {
    await pipeline(content, createWriteStream(temporary, { flags: "wx", mode: mode & 0o777 }));
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

async function* bounded(entry: Entry, budget: Budget): AsyncIterable<Uint8Array> {
  for await (const chunk of entry as AsyncIterable<Uint8Array>) {
    budget.left -= chunk.length;
    if (budget.left < 0) throw exhausted(`it has more than ${budget.total} bytes`);
    yield chunk;
  }
}

function refuse(name: string, fact: string): RuntimeError {
  const shown = JSON.stringify(name.slice(0, 200));
  return new RuntimeError("invalid_argument", `Cannot copy ${shown} out of the sandbox: ${fact}`);
}

function exhausted(fact: string): RuntimeError {
  return new RuntimeError("resource_exhausted", `Cannot copy out of the sandbox: ${fact}`);
}
