import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Cleanup } from "../base/cleanup.ts";
import { asError } from "../base/errors.ts";
import { writeFileAtomic } from "../base/files.ts";
import { deleteShim, readRuntimeInfo, type ShimProgram, startShim } from "../client/shim-program.ts";
import { formatConfig } from "../client/settings.ts";
import { TaskClient } from "../client/task-client.ts";
import type { Config } from "../config/config.ts";
import { loadConfig } from "../config/load.ts";
import { type Image, openImage } from "../image/store.ts";
import type { Mount, Stdio } from "../sandbox/model.ts";
import { Timeline } from "../sandbox/timeline.ts";
import { activate, deactivate, needsActivation, planActivation } from "./activation.ts";
import { defaultRuntime } from "./runtime.ts";

/**
 * An image by its name (as for `Sandbox.create`) or unpacked, with a layer of the task's own above one that is shared; or mounts in
 * their order, none when the spec's own path is ready.
 */
export type TaskRoot = { readonly image: string } | Pick<Image, "kind" | "rootfs"> | readonly Mount[];

/** A container's task to be made. */
export interface TaskRequest {
  readonly id: string;
  /** The task's own, which is there and the caller's: the bundle, the configuration and active mounts are made in it. */
  readonly directory: string;
  /** Default: that of this machine. */
  readonly config?: Config;
  /** OCI runtime configuration. */
  readonly spec: object;
  /** From which the root file system at `<bundle>/rootfs` is made. */
  readonly root: TaskRoot;
  /** Called when the bundle is there, before anything runs. Default: the task reads and writes nothing. */
  readonly openStdio?: () => Stdio | Promise<Stdio>;
  /** Ends the creation, which is undone. */
  readonly signal?: AbortSignal;
  /** Gets the phases "bundle", "shim" and "create". */
  readonly timeline?: Timeline;
  /** Says more about why the runtime could not create it. */
  readonly explain?: (error: unknown) => unknown;
}

/** A created task, ready to be started. */
export interface Task {
  /** Its directory. */
  readonly bundle: string;
  /** Where its shim serves. */
  readonly address: string;
  /** Starts it, and everything that follows. */
  readonly client: TaskClient;
  /** Undoes the whole creation; whoever keeps the task lets go of it with `move()`. */
  readonly undo: Cleanup;
}

export interface TaskManagerOptions {
  /** The shim's executable; default: that of this package. */
  readonly runtime?: string;
  /** In which ids are unique; default: "library". */
  readonly namespace?: string;
  /** Node that the executable is run with; default: its own, for the runtime of this package the one that we run in. */
  readonly nodePath?: string;
}

const noStdio = { stdin: "", stdout: "", stderr: "", terminal: false };
const libraryNamespace = "library";

/** Type of mounts that the shim says it takes, in its answer to `-info`. */
const allowAnnotation = "containerd.io/runtime-allow-mounts";

/**
 * Makes tasks of a runtime in the order of containerd: bundle, mounts, shim, task. When a step fails everything is undone, mounts
 * included.
 */
export class TaskManager {
  readonly #options: TaskManagerOptions & { readonly runtime: string; readonly namespace: string };
  #allowed: Promise<ReadonlySet<string>> | undefined;

  constructor(options: TaskManagerOptions = {}) {
    const own = options.runtime === undefined ? { nodePath: process.execPath } : {};
    this.#options = { runtime: defaultRuntime(), namespace: libraryNamespace, ...own, ...options };
  }

  /**
   * Creates a task, not started. Mounts of an earlier attempt that are still active in the task's directory are used as they are.
   *
   * @throws invalid_argument   the spec, a mount or the image is wrong
   * @throws not_found          there is no such image, directory or runtime
   * @throws already_exists     the id is in use
   * @throws unavailable        the runtime or its VM does not start
   * @throws deadline_exceeded, canceled
   */
  async create(request: TaskRequest): Promise<Task> {
    const { id, directory, spec, timeline = new Timeline() } = request;
    const { signal = new AbortController().signal, config = this.#machineConfig() } = request;
    const root = await openRoot(request.root, config, signal);
    await using cleanup = new Cleanup();
    const bundle = join(directory, "bundle");
    const beginMs = performance.now();
    await mkdir(bundle, { recursive: true, mode: 0o700 });
    await mkdir(join(bundle, "rootfs"), { recursive: true, mode: 0o711 });
    await writeFileAtomic(join(bundle, "config.json"), JSON.stringify(spec));
    await writeFileAtomic(join(directory, "config.toml"), formatConfig(config));
    const shim = this.#shimOf(id, directory);
    const active = activeDirectory(directory);
    cleanup.defer("active mounts", () => deactivate(active));
    const mounts = "kind" in root ? await mountsOf(root, directory) : root;
    const rootfs = await this.#activate(mounts, active, shim);
    const stdio = (await request.openStdio?.()) ?? noStdio;
    timeline.add("bundle", beginMs, performance.now() - beginMs);

    cleanup.defer("the shim", () => deleteShim(shim));
    const { address, client } = await timeline.measure("shim", async () => {
      const started = await startShim(shim, { signal });
      const connected = await TaskClient.connect(started, id);
      cleanup.defer("the connection to the shim", () => connected[Symbol.asyncDispose]());
      return { address: started, client: connected };
    });
    try {
      await timeline.measure("create", () => client.create({ bundle, rootfs, stdio }, { signal }));
    } catch (error) {
      throw asError(request.explain?.(error) ?? error);
    }
    return { bundle, address, client, undo: cleanup.move() };
  }

  /** Removes everything of a task from this machine but its directory, whatever state it is in; returns its exit code. */
  async remove(id: string, directory: string): Promise<number> {
    const exitCode = await deleteShim(this.#shimOf(id, directory));
    deactivate(activeDirectory(directory));
    return exitCode;
  }

  #machineConfig(): Config {
    return loadConfig({ environment: process.env, executableDirectory: dirname(this.#options.runtime) });
  }

  #shimOf(id: string, directory: string): ShimProgram {
    const { runtime, namespace, nodePath } = this.#options;
    return {
      path: runtime,
      namespace,
      containerId: id,
      bundle: join(directory, "bundle"),
      config: join(directory, "config.toml"),
      ...(nodePath === undefined ? {} : { nodePath }),
    };
  }

  async #activate(mounts: readonly Mount[], active: string, shim: ShimProgram): Promise<readonly Mount[]> {
    // Plain mounts, nearly always: every runtime takes them.
    if (!needsActivation(mounts)) return mounts;
    this.#allowed ??= readRuntimeInfo(shim).then(
      ({ annotations }) =>
        new Set((annotations[allowAnnotation] ?? "").split(",").filter((type) => type !== "")),
    );
    return await activate(planActivation(mounts, active, await this.#allowed), active);
  }
}

async function openRoot(
  root: TaskRoot,
  { dataDirectory }: Config,
  signal: AbortSignal,
): Promise<Exclude<TaskRoot, { readonly image: string }>> {
  if (!("image" in root)) return root;
  const imagesDirectory = join(dataDirectory, "images");
  return await openImage(root.image, {
    imagesDirectory,
    signal,
    report: () => {},
    environment: process.env,
  });
}

async function mountsOf(
  { kind, rootfs }: Pick<Image, "kind" | "rootfs">,
  directory: string,
): Promise<Mount[]> {
  const mountOf = (type: string, source: string, options: string[]) => [
    { type, source, target: "", options },
  ];
  if (kind === "direct") return mountOf("bind", rootfs, ["rbind", "rw"]);
  const [upper, work] = [join(directory, "upper"), join(directory, "work")];
  // It becomes the container's "/": everybody may look into that.
  await mkdir(upper, { recursive: true, mode: 0o755 });
  await mkdir(work, { recursive: true, mode: 0o700 });
  return mountOf("overlay", "overlay", [`lowerdir=${rootfs}`, `upperdir=${upper}`, `workdir=${work}`]);
}

function activeDirectory(directory: string): string {
  return join(directory, "mounts");
}
