import { createReadStream } from "node:fs";
import { access, constants, open, readdir, readFile, statfs } from "node:fs/promises";
import { codeOf, describe, errnoOf } from "../base/errors.ts";
import { exec } from "../base/exec.ts";
import { loadNative } from "../base/native.ts";
import { type HostVirtualization, inspectHost } from "../hypervisor/accelerator.ts";

/** All that a check can see of the host. Nothing of it changes the host, but that opening a device may load its module. */
export interface Probe {
  /** The effective user id. */
  uid(): number;
  /** A small text file; undefined when it cannot be read. */
  readText(path: string): Promise<string | undefined>;
  /** The names in a directory; undefined when it cannot be read. */
  list(directory: string): Promise<readonly string[] | undefined>;
  isExecutable(path: string): Promise<boolean>;
  /** Opens a device for reading and writing; the errno when that fails. */
  openDevice(path: string): Promise<string | undefined>;
  /** Whether the bytes of `text` are in the file. */
  contains(path: string, text: string): Promise<boolean>;
  /** What is free where `directory` is or would be. */
  free(directory: string): Promise<{ readonly bytes: number; readonly inodes: number } | undefined>;
  /** Runs a program for at most ten seconds. */
  run(argv: readonly string[], input?: string): Promise<ProgramResult>;
  virtualization(): Promise<HostVirtualization>;
  /** The version of Landlock that this kernel has (landlock(7)); 0: none. */
  landlockVersion(): number;
}

export type ProgramResult =
  | { readonly tag: "missing" }
  | { readonly tag: "failed"; readonly words: string }
  | { readonly tag: "ended"; readonly output: string };

const runTimeoutMs = 10_000;

/** The host that we run on. */
export const hostProbe: Probe = {
  uid: () => process.getuid?.() ?? -1,
  readText: (path) => readFile(path, "utf8").catch(() => undefined),
  list: (directory) => readdir(directory).catch(() => undefined),
  isExecutable: (path) =>
    access(path, constants.X_OK).then(
      () => true,
      () => false,
    ),
  openDevice,
  contains,
  free,
  run,
  virtualization: inspectHost,
  landlockVersion: () => loadNative().landlockVersion(),
};

async function openDevice(path: string): Promise<string | undefined> {
  try {
    await using _ = await open(path, constants.O_RDWR);
    return undefined;
  } catch (cause) {
    return errnoOf(cause) ?? describe(cause);
  }
}

async function contains(path: string, text: string): Promise<boolean> {
  let tail = "";
  try {
    for await (const chunk of createReadStream(path, { encoding: "latin1" })) {
      const part = tail + String(chunk);
      if (part.includes(text)) return true;
      tail = part.slice(-text.length);
    }
  } catch {
    // What cannot be read holds nothing for us.
  }
  return false;
}

async function free(directory: string): Promise<{ bytes: number; inodes: number } | undefined> {
  for (let path = directory; ; path = path.slice(0, path.lastIndexOf("/")) || "/") {
    try {
      const { bavail, bsize, ffree } = await statfs(path);
      return { bytes: bavail * bsize, inodes: ffree };
    } catch {
      // Not made yet: then what holds it counts.
      if (path === "/") return undefined;
    }
  }
}

async function run(argv: readonly string[], input?: string): Promise<ProgramResult> {
  try {
    const output = await exec(argv, { timeoutMs: runTimeoutMs, ...(input !== undefined && { input }) });
    return { tag: "ended", output };
  } catch (cause) {
    return codeOf(cause) === "not_found" ? { tag: "missing" } : { tag: "failed", words: describe(cause) };
  }
}
