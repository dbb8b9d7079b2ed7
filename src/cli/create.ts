import { RuntimeError } from "../base/errors.ts";
import type { Cleanup } from "../base/cleanup.ts";
import type { Config } from "../config/config.ts";
import type { Stdio } from "../sandbox/model.ts";
import type { Timeline } from "../sandbox/timeline.ts";
import type { ContainerPlan, RunOptions } from "./container-plan.ts";
import type { ContainerPaths, ContainerRecord } from "./container-store.ts";
import { commandFailure } from "./failure.ts";
import { type Host, namespace } from "./host.ts";
import type { Image } from "../image/store.ts";
import { type Keeper, takeKeeper } from "./keeper.ts";
import type { TaskClient } from "../client/task-client.ts";
import { TaskManager } from "../tasks/task-manager.ts";

export interface CreateOptions {
  readonly options: RunOptions;
  readonly image: Image;
  readonly plan: ContainerPlan;
  /** Gets every step that undoes the creation. */
  readonly cleanup: Cleanup;
  readonly timeline: Timeline;
  readonly signal: AbortSignal;
  /** Called when the bundle is there, before anything runs. */
  readonly openStdio: (paths: ContainerPaths) => Stdio | Promise<Stdio>;
}

/** A container that is ready to be started, and that we are the keeper of. */
export interface CreatedContainer {
  readonly record: ContainerRecord;
  readonly client: TaskClient;
  readonly keeper: Keeper;
}

/**
 * Makes a container in the order of containerd's task manager: bundle, shim, task. Each thing's undoing is in
 * `cleanup` before the next is made.
 *
 * @throws already_exists  the id is in use
 * @throws CommandError    the command cannot be run
 */
export async function createContainer(host: Host, create: CreateOptions): Promise<CreatedContainer> {
  const { options, image, plan, cleanup, timeline, signal } = create;
  const { containers } = host;
  const { containerId } = options;
  const paths = await containers.claim(containerId);
  const remove = () => containers.remove(containerId);
  cleanup.defer(`container "${containerId}"`, remove);
  const keeper = await takeKeeper(paths.directory, { signal });
  if (keeper === undefined)
    throw new RuntimeError("unavailable", `Cannot create container "${containerId}": its directory vanished`);
  cleanup.defer("its keeping", () => keeper[Symbol.asyncDispose]());
  // Once more, because whoever waits to be its keeper next should find nothing.
  cleanup.defer(`container "${containerId}"`, remove);

  const creating: ContainerRecord = {
    id: containerId,
    image: options.image,
    args: plan.spec.process.args,
    createdAt: new Date().toISOString(),
    stopSignal: plan.stopSignal,
    autoRemove: options.autoRemove,
    userRootfs: image.rootfs,
    state: { tag: "creating" },
  };
  await containers.save(creating);
  const tasks = new TaskManager({ runtime: host.shimPath, namespace });
  const task = await tasks.create({
    id: containerId,
    directory: paths.directory,
    config: configOf(host, options),
    spec: plan.spec,
    root: image,
    openStdio: () => create.openStdio(paths),
    signal,
    timeline,
    explain: (error) => commandFailure(error, plan.spec.process.args[0] ?? ""),
  });
  cleanup.defer("its task", () => task.undo[Symbol.asyncDispose]());
  const record: ContainerRecord = { ...creating, state: { tag: "started", address: task.address } };
  await containers.save(record);
  return { record, client: task.client, keeper };
}

function configOf({ config }: Host, { accel, kernelPath }: RunOptions): Config {
  return {
    ...config,
    ...(accel === undefined ? {} : { accel }),
    ...(kernelPath === undefined ? {} : { kernelPath }),
  };
}
