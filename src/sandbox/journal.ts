import { closeSync, constants, fsyncSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import type { ProcessIdentity } from "../base/processes.ts";

/** One thing on the host that a sandbox holds, as `delete` needs it to release it. */
export type JournalEntry =
  | { readonly kind: "process"; readonly name: string; readonly identity: ProcessIdentity }
  /** The daemon itself. */
  | { readonly kind: "daemon"; readonly identity: ProcessIdentity }
  /** A user id taken from the pool; by the sandbox unless an owner is named. */
  | { readonly kind: "user"; readonly uid: number; readonly owner?: string }
  /** Taps and filters made in this network namespace. */
  | { readonly kind: "network"; readonly netnsPath: string }
  /** A network namespace of our own, bound to this path. */
  | { readonly kind: "netns"; readonly path: string }
  /** A cgroup, by the mount of its hierarchy and its path in it. */
  | { readonly kind: "cgroup"; readonly hierarchy: string; readonly place: string }
  /** Mounts of a container's root file system at `<bundle>/rootfs`. */
  | { readonly kind: "rootfs"; readonly path: string }
  | { readonly kind: "container"; readonly containerId: string };

const fileName = "journal";
/** What the end of the host leaves, where the state directory is on a disk: files. The rest goes with its kernel. */
const staysOnDisk: ReadonlySet<JournalEntry["kind"]> = new Set(["user", "container"]);

/**
 * The record of what a sandbox holds on the host. Each entry is written before the thing is made (processes: right after they were
 * started, their pid is not known before), and on disk then if the thing outlives the host's kernel, so that `delete` finds
 * everything after any crash.
 */
export class Journal implements Disposable {
  readonly #fd: number;
  readonly #path: string;
  /** A record could not be written to its end: the next one begins on a line of its own. */
  #isTorn = false;

  /** @throws resource_exhausted, already_exists */
  constructor(directory: string) {
    this.#path = join(directory, fileName);
    try {
      this.#fd = openSync(this.#path, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
    } catch (cause) {
      throw new RuntimeError(systemErrorCode(cause), `Cannot write "${this.#path}"`, { cause });
    }
  }

  add(entry: JournalEntry): void {
    try {
      const record = Buffer.from(`${this.#isTorn ? "\n" : ""}${JSON.stringify(entry)}\n`);
      this.#isTorn = true;
      // The last block of a full disk takes a part of it, without an error.
      for (let offset = 0; offset < record.length; ) offset += writeSync(this.#fd, record, offset);
      this.#isTorn = false;
      if (staysOnDisk.has(entry.kind)) fsyncSync(this.#fd);
    } catch (cause) {
      throw new RuntimeError(systemErrorCode(cause), `Cannot write "${this.#path}"`, { cause });
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** The entries of a sandbox's journal, oldest first; none when there is no journal. A torn last line is left out. */
export function readJournal(directory: string): JournalEntry[] {
  let text: string;
  try {
    text = readFileSync(join(directory, fileName), "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
  return text.split("\n").flatMap((line) => {
    try {
      // Only root writes this file, in the format of `JournalEntry`.
      const entry = JSON.parse(line) as JournalEntry | null;
      return entry === null ? [] : [entry];
    } catch {
      return [];
    }
  });
}

/** File name of the journal in the sandbox's directory. */
export const journalName = fileName;
