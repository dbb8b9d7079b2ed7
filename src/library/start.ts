import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../base/cleanup.ts";
import { writeFileAtomic } from "../base/files.ts";
import { scope } from "../base/scope.ts";
import type { Config } from "../config/config.ts";
import type { Log } from "../base/log.ts";
import { createDriver } from "../hypervisor/drivers.ts";
import { openErofs } from "../image/erofs.ts";
import type { Image } from "../image/store.ts";
import { resolveUser } from "../image/users.ts";
import type { Container, Sandbox as SandboxModel, SandboxEvent as ModelEvent } from "../sandbox/model.ts";
import type { SandboxObserver } from "../sandbox/observer.ts";
import { createSandbox } from "../sandbox/sandbox.ts";
import { coldVms, type VmSource } from "../sandbox/vm-source.ts";
import { removeTree } from "../storage/remove-tree.ts";
import { orCanceled } from "./canceled.ts";
import { checkSandboxOptions } from "./check.ts";
import { processPrefix } from "./command.ts";
import { EventHub } from "./events.ts";
import type { FileHost } from "./files.ts";
import {
  configOf,
  directoriesOf,
  namespace,
  newSandboxId,
  openHostImage,
  requireRoot,
  sandboxesDirectory,
} from "./host.ts";
import { createSandboxLog } from "./log.ts";
import type { SandboxOptions } from "./options.ts";
import { planProcess, planSandbox, type SandboxPlan } from "./plan.ts";
import { sweepOnce } from "./sweep.ts";
import { openTemplate } from "./template.ts";

/** A booted sandbox, in parts. */
export interface SandboxParts {
  readonly id: string;
  readonly model: SandboxModel;
  readonly container: Container;
  readonly host: Omit<FileHost, "ended">;
  readonly events: EventHub;
  /** Resolves with the reason when the VM has ended by itself. */
  readonly lost: Promise<string>;
  /** Ends the VM and removes everything. */
  readonly release: () => Promise<void>;
}

/** Longest wait for an image, which may have to be fetched, and a boot that the configuration limits by itself. */
const startTimeoutMs = 3_600_000;

/** Boots a sandbox. On failure nothing is left. */
export async function startSandbox(options: SandboxOptions): Promise<SandboxParts> {
  checkSandboxOptions(options);
  requireRoot();
  const { timeoutMs = startTimeoutMs } = options;
  using limit = scope(options.signal, timeoutMs, "the creation of a sandbox");
  return await orCanceled("the sandbox", options.signal, () => start(options, limit.signal));
}

async function start(options: SandboxOptions, signal: AbortSignal): Promise<SandboxParts> {
  signal.throwIfAborted();
  const id = newSandboxId();
  const { config, log, image, rootImage, vms } = await openOrigin(id, options, signal);
  const plan = await planSandbox(id, options, image);
  const directories = directoriesOf(config, id);
  const events = new EventHub();
  const lost = Promise.withResolvers<string>();

  await using cleanup = new Cleanup();
  await mkdir(sandboxesDirectory(config), { recursive: true, mode: 0o700 });
  await mkdir(directories.directory, { mode: 0o700 });
  cleanup.defer(`the directory of sandbox "${id}"`, () => removeTree(directories.directory));
  await makeBundle(directories, plan);
  const model = createSandbox({
    namespace,
    sandboxId: id,
    config,
    hypervisor: await createDriver(config, (text) => log.warn(text)),
    log,
    vms,
    emit: (event) => {
      pass(event, events);
      // The VM is there, but nothing can be run any more.
      if (event.type === "exit" && event.process.execId === "") lost.resolve("its first process was killed");
    },
    observer: { ...silent, onVmLost: lost.resolve },
  });
  cleanup.defer(`sandbox "${id}"`, () => model.close());
  const container = await createIdleContainer(model, { id, image, rootImage, directories, signal });
  const findUser = (text: string) => resolveUser(image.rootfs, text);
  const owned = cleanup.move();
  return {
    id,
    model,
    container,
    host: {
      container,
      plan: (args, spawnOptions) => planProcess(plan.process, args, spawnOptions, findUser),
      owner: async (user) => (user === undefined ? plan.process.user : await findUser(user)),
    },
    events,
    lost: lost.promise,
    release: () => owned[Symbol.asyncDispose](),
  };
}

/** What a sandbox's VM and root come from. */
interface Origin {
  readonly config: Config;
  readonly log: Log;
  readonly image: Image;
  readonly rootImage: string | undefined;
  readonly vms: VmSource;
}

async function openOrigin(id: string, options: SandboxOptions, signal: AbortSignal): Promise<Origin> {
  if (options.template !== undefined) {
    const opened = openTemplate(options.template);
    return { ...opened, log: createSandboxLog(id, opened.config.logLevel, options.onLog) };
  }
  const config = configOf(options);
  const log = createSandboxLog(id, config.logLevel, options.onLog);
  await sweepOnce(config, log);
  const image = await openHostImage(options.image ?? `rootfs:${options.rootfs}`, { config, log, signal });
  const rootImage = options.storage === "erofs" ? await openErofs(image, signal) : undefined;
  return { config, log, image, rootImage, vms: coldVms };
}

const silent: SandboxObserver = {
  onPhase: () => {},
  onBoot: () => {},
  onVmLost: () => {},
  onBytes: () => {},
  onAgentCall: () => {},
};

type Directories = ReturnType<typeof directoriesOf>;

async function makeBundle({ bundle, upper, work }: Directories, plan: SandboxPlan): Promise<void> {
  await mkdir(bundle, { mode: 0o700 });
  await mkdir(join(bundle, "rootfs"), { mode: 0o711 });
  // It becomes the container's "/": everybody may look into that.
  await mkdir(upper, { mode: 0o755 });
  await mkdir(work, { mode: 0o700 });
  await writeFileAtomic(join(bundle, "config.json"), JSON.stringify(plan.spec));
}

interface IdleContainer {
  readonly id: string;
  readonly image: Image;
  readonly rootImage: string | undefined;
  readonly directories: Directories;
  readonly signal: AbortSignal;
}

async function createIdleContainer(
  model: SandboxModel,
  { id, image, rootImage, directories, signal }: IdleContainer,
): Promise<Container> {
  const { bundle, upper, work } = directories;
  const layers = [`lowerdir=${image.rootfs}`, `upperdir=${upper}`, `workdir=${work}`];
  const container = await model.createContainer(
    {
      containerId: id,
      bundle,
      ...(rootImage === undefined
        ? { rootfs: [{ type: "overlay", source: "overlay", target: "", options: layers }] }
        : { rootfs: [], rootImage }),
      stdio: { stdin: "", stdout: "", stderr: "", terminal: false },
      noPivotRoot: false,
      isIdle: true,
    },
    { signal },
  );
  await container.start("");
  return container;
}

/** The model's events as the library shows them; the idle program is nobody's business. */
function pass(event: ModelEvent, events: EventHub): void {
  switch (event.type) {
    case "exit":
      // Transfers of files are no processes to anybody.
      if (!event.process.execId.startsWith(processPrefix)) return;
      events.emit({ type: "exit", processId: event.process.execId, exitCode: event.exit.exitCode });
      return;
    case "oom":
    case "paused":
    case "resumed":
      events.emit({ type: event.type });
      return;
    case "create":
    case "start":
    case "exec-added":
    case "exec-started":
    case "delete":
  }
}
