import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../base/cleanup.ts";
import { asError } from "../base/errors.ts";
import { writeFileAtomic } from "../base/files.ts";
import { deleteShim, readRuntimeInfo, type ShimProgram, startShim } from "../client/shim-program.ts";
import { formatConfig } from "../client/settings.ts";
import { TaskClient } from "../client/task-client.ts";
import type { Config } from "../config/config.ts";
import type { Image } from "../image/store.ts";
import type { Mount, Stdio } from "../sandbox/model.ts";
import { Timeline } from "../sandbox/timeline.ts";
import { activate, deactivate, needsActivation, planActivation } from "./activation.ts";

/**
 * An image, with a layer of the task's own above one that is shared; or mounts in their order, none when the spec's own path is
 * ready.
 */
export type TaskRoot = Pick<Image, "kind" | "rootfs"> | readonly Mount[];

/** A container's task to be made. */
export interface TaskRequest {
  readonly id: string;
  /** The task's own, which is there and the caller's: the bundle, the configuration and active mounts are made in it. */
  readonly directory: string;
  readonly config: Config;
  /** OCI runtime configuration. */
  readonly spec: object;
  /** From which the root file system at `<bundle>/rootfs` is made. */
  readonly root: TaskRoot;
  /** Called when the bundle is there, before anything runs. */
  readonly openStdio: () => Stdio | Promise<Stdio>;
  readonly signal: AbortSignal;
  /** Gets the phases "bundle", "shim" and "create". */
  readonly timeline?: Timeline;
  /** Says more about why the runtime could not create it. */
  readonly explain?: (error: unknown) => unknown;
}

/** A created task, ready to be started. */
export interface Task {
  readonly bundle: string;
  readonly address: string;
  readonly client: TaskClient;
  /** Undoes the whole creation; whoever keeps the task lets go of it with `move()`. */
  readonly undo: Cleanup;
}

export interface TaskManagerOptions {
  /** The shim's executable. */
  readonly runtime: string;
  readonly namespace: string;
  /** Node that the executable is run with; default: its own. */
  readonly nodePath?: string;
}

/** Type of mounts that the shim says it takes, in its answer to `-info`. */
const allowAnnotation = "containerd.io/runtime-allow-mounts";

/**
 * Makes tasks of a runtime in the order of containerd: bundle, mounts, shim, task. When a step fails everything is undone, mounts
 * included.
 */
export class TaskManager {
  readonly #options: TaskManagerOptions;
  #allowed: Promise<ReadonlySet<string>> | undefined;

  constructor(options: TaskManagerOptions) {
    this.#options = options;
  }

  /**
   * Creates a task. Mounts of an earlier attempt that are still active in the task's directory are used as they are.
   *
   * @throws invalid_argument, not_found, already_exists, unavailable, deadline_exceeded, canceled
   */
  async create(request: TaskRequest): Promise<Task> {
    const { id, directory, config, spec, signal, timeline = new Timeline() } = request;
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
    const mounts = "kind" in request.root ? await mountsOf(request.root, directory) : request.root;
    const rootfs = await this.#activate(mounts, active, shim);
    const stdio = await request.openStdio();
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
