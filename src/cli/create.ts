import { mkdir } from "node:fs/promises";
import { asError, RuntimeError } from "../base/errors.ts";
import type { Cleanup } from "../base/cleanup.ts";
import { writeFileAtomic } from "../base/files.ts";
import type { Stdio } from "../sandbox/model.ts";
import type { Timeline } from "../sandbox/timeline.ts";
import { type ContainerPlan, planRootfs, type RunOptions } from "./container-plan.ts";
import type { ContainerPaths, ContainerRecord } from "./container-store.ts";
import { commandFailure } from "./failure.ts";
import { type Host, shimOf } from "./host.ts";
import type { Image } from "../image/store.ts";
import { type Keeper, takeKeeper } from "./keeper.ts";
import { formatConfig } from "../client/settings.ts";
import { deleteShim, startShim } from "../client/shim-program.ts";
import { TaskClient } from "../client/task-client.ts";

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
  const beginBundle = performance.now();
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
  await makeBundle(host, create, paths);
  const stdio = await create.openStdio(paths);
  timeline.add("bundle", beginBundle, performance.now() - beginBundle);

  const shim = shimOf(host, containerId);
  cleanup.defer("the shim", () => deleteShim(shim));
  const client = await timeline.measure("shim", async () => {
    const address = await startShim(shim, { signal });
    const connected = await TaskClient.connect(address, containerId);
    cleanup.defer("the connection to the shim", () => connected[Symbol.asyncDispose]());
    return { address, connected };
  });
  const rootfs = [planRootfs(image, paths)];
  try {
    const task = { bundle: paths.bundle, rootfs, stdio };
    await timeline.measure("create", () => client.connected.create(task, { signal }));
  } catch (error) {
    throw asError(commandFailure(error, plan.spec.process.args[0] ?? ""));
  }
  const record: ContainerRecord = { ...creating, state: { tag: "started", address: client.address } };
  await containers.save(record);
  return { record, client: client.connected, keeper };
}

async function makeBundle(host: Host, create: CreateOptions, paths: ContainerPaths): Promise<void> {
  const { options, plan, image } = create;
  await mkdir(paths.bundle, { mode: 0o700 });
  await mkdir(`${paths.bundle}/rootfs`, { mode: 0o711 });
  if (image.kind === "layered") {
    // It becomes the container's "/": everybody may look into that.
    await mkdir(paths.upper, { mode: 0o755 });
    await mkdir(paths.work, { mode: 0o700 });
  }
  await writeFileAtomic(`${paths.bundle}/config.json`, JSON.stringify(plan.spec));
  const overrides = {
    ...(options.accel === undefined ? {} : { accel: options.accel }),
    ...(options.kernelPath === undefined ? {} : { kernelPath: options.kernelPath }),
  };
  await writeFileAtomic(paths.config, formatConfig({ ...host.config, ...overrides }));
}
