import { createHash } from "node:crypto";
import { mkdir, readdir } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { ignore, readRegularFile, systemErrorCode, writeFileAtomic } from "../base/files.ts";
import { checkId } from "../base/ids.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import { removeTree } from "../storage/remove-tree.ts";

/** Where the things of one container lie. None of them is a mount. */
export interface ContainerPaths {
  readonly directory: string;
  /** Without it there is no container. */
  readonly record: string;
  /** Where the daemon runs: its address and log. The bundle is the caller's, and stays as it is. */
  readonly shim: string;
  readonly config: string;
  /** The cgroups that were made for what stands for the container on the host. */
  readonly cgroups: string;
  /** FIFOs of the container's first process. */
  readonly io: string;
  /** FIFOs of each exec, and beside them `<exec id>.json`: who stands for it. */
  readonly execs: string;
}

/** What is remembered of a container. Whether it runs only its daemon knows. */
export interface ContainerRecord {
  readonly id: string;
  readonly ociVersion: string;
  readonly bundle: string;
  readonly rootfs: string;
  readonly createdAt: string;
  readonly annotations: Readonly<Record<string, string>>;
  /** Of the task API; empty until the container is created. */
  readonly address: string;
  /** The process on the host that stands for the container's first one; until the container is created, whoever creates it. */
  readonly proxy: ProcessIdentity;
}

/** How the daemon and everything on the host calls a container; ids of other roots are other sandboxes. */
export interface SandboxName {
  readonly namespace: string;
  readonly sandboxId: string;
}

/** Not below the state directory, where a sandbox of the namespace "oci" would have the place of a container. */
const defaultRoot = "/run/caisson-oci";
const maxRecordBytes = 4 * 1024 * 1024;
const maxIdBytes = 255;

/** The containers of one `--root`. */
export class ContainerStore {
  readonly root: string;

  constructor(root: string | undefined) {
    this.root = resolve(root ?? defaultRoot);
  }

  /** The daemons keep sandboxes where this store would keep containers. @throws invalid_argument */
  checkOutside(stateDirectory: string): void {
    const way = relative(stateDirectory, this.root);
    if (way === ".." || way.startsWith("../")) return;
    throw new RuntimeError(
      "invalid_argument",
      `cannot use --root "${this.root}": expected a directory outside of state_directory ("${stateDirectory}")`,
    );
  }

  /** @throws invalid_argument */
  paths(containerId: string): ContainerPaths {
    const directory = join(this.root, checkContainerId(containerId));
    return {
      directory,
      record: join(directory, "state.json"),
      shim: join(directory, "shim"),
      config: join(directory, "config.toml"),
      cgroups: join(directory, "cgroups"),
      io: join(directory, "io"),
      execs: join(directory, "execs"),
    };
  }

  sandboxName(containerId: string): SandboxName {
    const namespace = this.root === defaultRoot ? "oci" : `oci-${hash(this.root, 12)}`;
    return { namespace, sandboxId: sandboxIdOf(containerId) };
  }

  /** Makes the container's directory, and nobody else can have the id. @throws already_exists */
  async claim(containerId: string): Promise<ContainerPaths> {
    const paths = this.paths(containerId);
    await mkdir(this.root, { recursive: true, mode: 0o700 });
    await mkdir(paths.directory, { mode: 0o700 }).catch((cause: unknown) => {
      if (systemErrorCode(cause) === "already_exists")
        throw new RuntimeError("already_exists", "container with given ID already exists");
      throw new RuntimeError(systemErrorCode(cause), `cannot make "${paths.directory}"`, { cause });
    });
    return paths;
  }

  async save(record: ContainerRecord): Promise<void> {
    await writeFileAtomic(this.paths(record.id).record, JSON.stringify(record));
  }

  /**
   * Undefined when there is no such container.
   *
   * @throws internal  what is noted of it cannot be understood
   */
  async find(containerId: string): Promise<ContainerRecord | undefined> {
    const bytes = await readRegularFile(this.paths(containerId).record, maxRecordBytes).catch(
      (error: unknown) => {
        if (error instanceof RuntimeError && error.code === "not_found") return undefined;
        throw error;
      },
    );
    return bytes === undefined ? undefined : parseRecord(bytes.toString("utf8"), containerId);
  }

  /** @throws not_found */
  async load(containerId: string): Promise<ContainerRecord> {
    const record = await this.find(containerId);
    if (record === undefined) throw doesNotExist();
    return record;
  }

  /** Whether anything is there under the id, be it of a creation that ended where it began. */
  async hasDirectory(containerId: string): Promise<boolean> {
    const { directory } = this.paths(containerId);
    return (await readdir(directory).catch(ignore("ENOENT"))) !== undefined;
  }

  /** All containers, by name; `onUnreadable` is told of those that cannot be loaded. */
  async list(onUnreadable: (id: string, error: unknown) => void): Promise<ContainerRecord[]> {
    const names = ((await readdir(this.root).catch(ignore("ENOENT"))) ?? []).sort();
    const load = (name: string) =>
      this.find(name).catch((error: unknown) => {
        onUnreadable(name, error);
        return undefined;
      });
    const records = await Promise.all(names.filter(isContainerId).map(load));
    return records.filter((record) => record !== undefined);
  }

  /** Removes everything of a container from the disk; its daemon is gone. Idempotent. */
  async remove(containerId: string): Promise<void> {
    await removeTree(this.paths(containerId).directory);
  }
}

/** It is written in one step: one that was cut is the host's doing. */
function parseRecord(text: string, containerId: string): ContainerRecord {
  try {
    return JSON.parse(text) as ContainerRecord;
  } catch (cause) {
    throw new RuntimeError(
      "internal",
      `cannot read what is noted of container ${containerId}; "delete --force" removes it`,
      { cause },
    );
  }
}

export function doesNotExist(): RuntimeError {
  return new RuntimeError("not_found", "container does not exist");
}

/** @throws invalid_argument */
function checkContainerId(id: string): string {
  if (id === "") throw new RuntimeError("invalid_argument", "container id cannot be empty");
  if (!isContainerId(id)) throw new RuntimeError("invalid_argument", "invalid container ID format");
  return id;
}

/** runc's rule, and what a directory's name can be. */
function isContainerId(id: string): boolean {
  return /^[\w+.-]+$/.test(id) && id !== "." && id !== ".." && id.length <= maxIdBytes;
}

/** The id itself where it is one for the daemon too, whose rule is stricter. */
function sandboxIdOf(containerId: string): string {
  try {
    return checkId("container id", containerId);
  } catch {
    return `h${hash(containerId, 40)}`;
  }
}

function hash(text: string, length: number): string {
  return createHash("sha256").update(text).digest("hex").slice(0, length);
}
