import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { ignore, readRegularFile, systemErrorCode, writeFileAtomic } from "../base/files.ts";
import { checkId } from "../base/ids.ts";
import { parseObject, property } from "../base/json.ts";
import { removeTree } from "../storage/remove-tree.ts";

/** Where the things of one container lie. */
export interface ContainerPaths {
  readonly directory: string;
  readonly bundle: string;
  /** FIFOs of the container's own process. */
  readonly io: string;
  readonly config: string;
  readonly log: string;
  readonly record: string;
}

/** What we remember of a container. */
export interface ContainerRecord {
  readonly id: string;
  readonly image: string;
  readonly args: readonly string[];
  readonly createdAt: string;
  readonly stopSignal: number;
  readonly autoRemove: boolean;
  /** Where the image's users are looked up for `exec -u`. */
  readonly userRootfs: string;
  readonly state: RecordedState;
}

type RecordedState =
  | { readonly tag: "creating" }
  /** It was started; whether it still runs only its daemon knows. */
  | { readonly tag: "started"; readonly address: string }
  | { readonly tag: "exited"; readonly exitCode: number; readonly exitedAt: string };

const maxRecordBytes = 4 * 1024 * 1024;

export class ContainerStore {
  readonly #directory: string;

  constructor(dataDirectory: string) {
    this.#directory = join(dataDirectory, "containers");
  }

  /** @throws invalid_argument */
  paths(containerId: string): ContainerPaths {
    const directory = join(this.#directory, checkId("container id", containerId));
    const bundle = join(directory, "bundle");
    return {
      directory,
      bundle,
      io: join(directory, "io"),
      config: join(directory, "config.toml"),
      log: join(directory, "output.log"),
      record: join(directory, "container.json"),
    };
  }

  /** Makes the container's directory, and nobody else can have the id. @throws already_exists */
  async claim(containerId: string): Promise<ContainerPaths> {
    const paths = this.paths(containerId);
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    await mkdir(paths.directory, { mode: 0o700 }).catch((cause: unknown) => {
      const code = systemErrorCode(cause);
      const fact = code === "already_exists" ? `: it is in use; "caisson rm ${containerId}" frees it` : "";
      throw new RuntimeError(code, `Cannot create container "${containerId}"${fact}`, { cause });
    });
    return paths;
  }

  async save(record: ContainerRecord): Promise<void> {
    await writeFileAtomic(this.paths(record.id).record, JSON.stringify(record));
  }

  /** Undefined when there is no such container; a container that has no usable record is "creating". */
  async find(containerId: string): Promise<ContainerRecord | undefined> {
    const { record: path, directory } = this.paths(containerId);
    const names = await readdir(directory).catch(ignore("ENOENT"));
    if (names === undefined) return undefined;
    const text = await readRegularFile(path, maxRecordBytes).catch((error: unknown) => {
      if (error instanceof RuntimeError && error.code === "not_found") return undefined;
      throw error;
    });
    return parseRecord(text?.toString("utf8") ?? "", containerId);
  }

  /** @throws not_found */
  async load(containerId: string): Promise<ContainerRecord> {
    const record = await this.find(containerId);
    if (record === undefined)
      throw new RuntimeError("not_found", `Cannot find container "${containerId}": there is none`);
    return record;
  }

  /** All containers, in the order of their creation. */
  async list(): Promise<ContainerRecord[]> {
    const names = (await readdir(this.#directory).catch(ignore("ENOENT"))) ?? [];
    const records = await Promise.all(names.map((name) => this.find(name)));
    return records
      .filter((record) => record !== undefined)
      .sort((left, right) => left.createdAt.localeCompare(right.createdAt));
  }

  /** Removes everything of a container from the disk; its daemon is gone. Idempotent. */
  async remove(containerId: string): Promise<void> {
    await removeTree(this.paths(containerId).directory);
  }
}

/** We wrote it ourselves, in one step; what is not whole was made by a process that died before. */
function parseRecord(text: string, containerId: string): ContainerRecord {
  const document = parseObject(text);
  if (property(document, "id") === containerId) return document as ContainerRecord;
  return {
    id: containerId,
    image: "",
    args: [],
    createdAt: "",
    stopSignal: 15,
    autoRemove: false,
    userRootfs: "",
    state: { tag: "creating" },
  };
}
