import { randomBytes } from "node:crypto";
import { mkdir, readdir } from "node:fs/promises";
import { basename, dirname, isAbsolute, join } from "node:path";
import { Cleanup } from "../base/cleanup.ts";
import { codeOf, RuntimeError } from "../base/errors.ts";
import { readRegularFile, systemErrorCode, writeFileAtomic } from "../base/files.ts";
import { checkId } from "../base/ids.ts";
import { parseObject, property } from "../base/json.ts";
import { TaskClient, type TaskStatus } from "../client/task-client.ts";
import type { Mount } from "../sandbox/model.ts";
import { removeTree } from "../storage/remove-tree.ts";
import { ContainerProcess, type ProcessParts } from "./process.ts";
import { defaultRuntime } from "./runtime.ts";
import { FifoStdio, type WantedStdio } from "./stdio.ts";
import { TaskManager, type TaskRoot } from "./task-manager.ts";

/** What a container is made from. */
export interface ContainerConfig extends WantedStdio {
  readonly id: string;
  /** Directory of this machine where containers keep what they need, each in `<root>/<id>`. */
  readonly root: string;
  /** OCI runtime configuration (`config.json` of a bundle). */
  readonly spec: object;
  /** As for `Sandbox.create`: the container writes into a layer of its own above it. */
  readonly image?: string;
  /** Mounted at the bundle's `rootfs`, in order, in place of an image; without any the spec's `root.path` must be absolute. */
  readonly rootfs?: readonly Mount[];
  /** A containerd shim; default: that of this package. */
  readonly runtime?: string;
  /** Ends the creation, which is undone. */
  readonly signal?: AbortSignal;
}

export interface LoadContainerOptions {
  readonly id: string;
  /** As it was given to `create`. */
  readonly root: string;
}

/** How a process of a container is started: the container's own process with another command. */
export interface ProcessOptions extends WantedStdio {
  /** Program and arguments. */
  readonly args: readonly string[];
  /** `NAME=value`, on top of the container's. */
  readonly env?: readonly string[];
  /** Absolute; default: the container's. */
  readonly cwd?: string;
}

/** What is remembered of a container. */
interface ContainerRecord {
  readonly runtime: string;
  readonly address: string;
  readonly pid: number;
}

const namespace = "library";
const recordName = "container.json";
const maxRecordBytes = 64 * 1024;
const maxSpecBytes = 4 * 1024 * 1024;

/**
 * A container in a microVM that a daemon of its own holds (the runtime's shim): it goes on when the program ends that has made it,
 * and another one can load it. All state is in `<root>/<id>`.
 */
export class Container implements AsyncDisposable {
  readonly id: string;
  /** Its bundle. */
  readonly path: string;
  /** As it was given to `create`. */
  readonly spec: object;
  /** Process id on the host that stands for it: the VM's. */
  readonly pid: number;
  /** The first process. */
  readonly init: ContainerProcess;
  readonly #directory: string;
  readonly #manager: TaskManager;
  readonly #client: TaskClient | undefined;
  readonly #processes = new Map<string, ContainerProcess>();

  private constructor(parts: {
    directory: string;
    spec: object;
    manager: TaskManager;
    client: TaskClient | undefined;
    pid: number;
    stdio: FifoStdio;
  }) {
    this.#directory = parts.directory;
    this.#manager = parts.manager;
    this.#client = parts.client;
    this.id = basename(parts.directory);
    this.path = join(parts.directory, "bundle");
    this.spec = parts.spec;
    this.pid = parts.pid;
    this.init = new ContainerProcess(this.#partsOf("", parts.stdio));
  }

  /**
   * Boots the VM and makes the container in it; `start` runs its process. On failure nothing is left.
   *
   * @throws already_exists  the id is in use in this root
   * @throws invalid_argument, not_found, unavailable, deadline_exceeded, canceled
   */
  static async create(config: ContainerConfig): Promise<Container> {
    const { spec, runtime = defaultRuntime(), terminal = false } = config;
    const signal = config.signal ?? new AbortController().signal;
    const directory = directoryOf(config);
    await using cleanup = new Cleanup();
    await mkdir(dirname(directory), { recursive: true, mode: 0o700 });
    await mkdir(directory, { mode: 0o700 }).catch((cause: unknown) => {
      throw new RuntimeError(systemErrorCode(cause), `Cannot create container "${config.id}"`, { cause });
    });
    cleanup.defer("its directory", () => removeTree(directory));
    const stdio = await FifoStdio.make(join(directory, "io", "init"), config);
    cleanup.defer("its streams", () => stdio.close());
    const manager = managerOf(runtime);
    const task = await manager.create({
      id: config.id,
      directory,
      spec,
      root: rootOf(config),
      openStdio: () => stdio.toStdio(terminal),
      signal,
    });
    cleanup.defer("its task", () => task.undo[Symbol.asyncDispose]());
    stdio.release();
    const { client, address } = task;
    const { pid } = await client.state("");
    const record: ContainerRecord = { runtime, address, pid };
    await writeFileAtomic(join(directory, recordName), JSON.stringify(record));
    task.undo.move();
    cleanup.move();
    return new Container({ directory, spec, manager, client, pid, stdio });
  }

  /**
   * Finds a container that was created before, by this program or another: init and the processes that were added to it come back.
   * One whose daemon has died can only be deleted.
   *
   * @throws not_found  there is none in this root
   */
  static async load(options: LoadContainerOptions): Promise<Container> {
    const directory = directoryOf(options);
    const record = await readRecord(directory, options.id);
    const spec = parseObject(
      (await readRegularFile(join(directory, "bundle/config.json"), maxSpecBytes)).toString(),
    );
    const client = await TaskClient.connect(record.address, options.id).catch((error: unknown) => {
      if (codeOf(error) === "unavailable") return undefined;
      throw error;
    });
    const container = new Container({
      directory,
      spec: spec ?? {},
      manager: managerOf(record.runtime),
      client,
      pid: record.pid,
      stdio: new FifoStdio(join(directory, "io", "init")),
    });
    for (const name of (await readdir(join(directory, "io"))).filter((entry) => entry.startsWith("e"))) {
      container.#add(name, new FifoStdio(join(directory, "io", name)));
    }
    return container;
  }

  /** The processes that were added and not deleted. */
  get processes(): readonly ContainerProcess[] {
    return [...this.#processes.values()];
  }

  /**
   * Runs its process.
   *
   * @throws failed_precondition  it was started before
   * @throws invalid_argument, not_found, permission_denied  its program cannot be executed
   * @throws unavailable  its daemon died
   */
  async start(): Promise<void> {
    await this.init.start();
  }

  /** The state of its first process; "stopped" also when its daemon has died. @throws unavailable  it has died just now */
  async status(): Promise<TaskStatus> {
    return this.#client === undefined ? "stopped" : await this.#client.status("");
  }

  /**
   * Resolves when it has ended, with 0 to 255; 128 + n when signal n has ended it. Any number of callers, before and after.
   *
   * @throws unavailable  its daemon died
   */
  wait(): Promise<{ readonly exitCode: number }> {
    return this.init.wait();
  }

  /** Sends a signal, by name or Linux number, to its first process. @throws not_found  it has ended */
  signal(signal: NodeJS.Signals | number): Promise<void> {
    return this.init.signal(signal);
  }

  /**
   * Adds a process; `start` runs it.
   *
   * @throws failed_precondition  the container has ended
   * @throws unavailable          its daemon died
   */
  async newProcess(options: ProcessOptions): Promise<ContainerProcess> {
    const { args, env = [], cwd, terminal = false } = options;
    const execId = `e${randomBytes(6).toString("hex")}`;
    const own = (property(this.spec, "process") ?? {}) as { env?: readonly string[]; cwd?: string };
    const ociProcess = {
      ...own,
      args,
      env: [...(own.env ?? []), ...env],
      cwd: cwd ?? own.cwd ?? "/",
      terminal,
    };
    const directory = join(this.#directory, "io", execId);
    await using cleanup = new Cleanup();
    cleanup.defer("its directory", () => removeTree(directory));
    const stdio = await FifoStdio.make(directory, options);
    cleanup.defer("its streams", () => stdio.close());
    await this.#live.exec(execId, ociProcess, stdio.toStdio(terminal));
    cleanup.move();
    return this.#add(execId, stdio);
  }

  /**
   * Removes it, its VM and everything of it. With `force` also while it runs.
   *
   * @throws failed_precondition  it is running, and `force` was not given
   * @throws internal             something could not be removed; another call tries again
   */
  async delete({ force = false }: { readonly force?: boolean } = {}): Promise<void> {
    const client = this.#client;
    if (client !== undefined && !force) await client.delete("");
    await client?.shutdown().catch(() => {});
    await this[Symbol.asyncDispose]();
    await this.#manager.remove(this.id, this.#directory);
    await removeTree(this.#directory);
  }

  /** Lets go of the container, which goes on. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const process of [this.init, ...this.#processes.values()]) process.close();
    await this.#client?.[Symbol.asyncDispose]();
  }

  get #live(): TaskClient {
    if (this.#client !== undefined) return this.#client;
    throw new RuntimeError(
      "unavailable",
      `Cannot use container "${this.id}": its daemon is gone; it can be deleted`,
    );
  }

  #add(execId: string, stdio: FifoStdio): ContainerProcess {
    const process = new ContainerProcess(this.#partsOf(execId, stdio));
    this.#processes.set(execId, process);
    return process;
  }

  #partsOf(execId: string, stdio: FifoStdio): ProcessParts {
    return {
      execId,
      stdio,
      client: () => this.#live,
      forget: async () => {
        this.#processes.delete(execId);
        await removeTree(join(this.#directory, "io", execId));
      },
    };
  }
}

function directoryOf({ root, id }: LoadContainerOptions): string {
  checkId("container id", id);
  if (isAbsolute(root)) return join(root, id);
  throw new RuntimeError("invalid_argument", `Cannot use the root "${root}": expected an absolute path`);
}

async function readRecord(directory: string, id: string): Promise<ContainerRecord> {
  const text = await readRegularFile(join(directory, recordName), maxRecordBytes).catch((cause: unknown) => {
    throw new RuntimeError(codeOf(cause), `Cannot load container "${id}"`, { cause });
  });
  const record = parseObject(text.toString());
  const [runtime, address, pid] = ["runtime", "address", "pid"].map((key) => property(record, key));
  if (typeof runtime === "string" && typeof address === "string" && typeof pid === "number")
    return { runtime, address, pid };
  throw new RuntimeError("internal", `Cannot load container "${id}": its record is broken`);
}

function rootOf({ id, image, rootfs }: ContainerConfig): TaskRoot {
  if (image === undefined) return rootfs ?? [];
  if (rootfs === undefined) return { image };
  throw new RuntimeError(
    "invalid_argument",
    `Cannot create container "${id}": it has both an image and a rootfs`,
  );
}

function managerOf(runtime: string): TaskManager {
  return new TaskManager({ runtime, namespace, nodePath: process.execPath });
}
