import { RuntimeError } from "../base/errors.ts";
import { keepAlive } from "../base/keep-alive.ts";
import { Mutex } from "../base/mutex.ts";
import { abortable, scope } from "../base/scope.ts";
import type { Config } from "../config/config.ts";
import { chooseAccelerator, inspectHost } from "../hypervisor/accelerator.ts";
import { createDriver } from "../hypervisor/drivers.ts";
import { openErofs } from "../image/erofs.ts";
import type { Image } from "../image/store.ts";
import { type SavedVm, saveBootedVm } from "../sandbox/saved-vm.ts";
import type { SandboxVm, VmRequest } from "../sandbox/vm.ts";
import { coldVms, type VmSource } from "../sandbox/vm-source.ts";
import { checkTemplateOptions } from "./check.ts";
import { configOf, namespace, newSandboxId, openHostImage, requireRoot } from "./host.ts";
import { createSandboxLog } from "./log.ts";
import { orCanceled } from "./canceled.ts";
import type { TemplateOptions } from "./options.ts";
import { sweepOnce } from "./sweep.ts";

/** What a sandbox has from its template. */
export interface TemplateParts {
  readonly config: Config;
  readonly image: Image;
  readonly rootImage: string;
  readonly vms: VmSource;
}

/** For the sandboxes that are made from it. @throws invalid_argument  it is none; failed_precondition  it was closed */
export let openTemplate: (template: Template) => TemplateParts;

/** Longest wait for an image, which may have to be fetched, and a boot that the configuration limits by itself. */
const createTimeoutMs = 3_600_000;

/**
 * A VM that has booted, and was saved before anything ran in it: `Sandbox.create({ template })` goes on from there. Its sandboxes share the memory that
 * they do not write to. Each has a random seed, a clock, a name and an address of its own before anything runs in it.
 *
 * It takes the kernel's vhost-vsock, QEMU, the machine "microvm", and an image; its sandboxes have their root on a disk
 * (`storage: "erofs"`), and no `mounts`. Sandboxes of one template have the layout of the guest's kernel in common: who does not want that of two
 * tenants gives each a template of their own.
 *
 * ```ts
 * await using template = await Template.create({ image: "docker.io/library/python:3" });
 * await using sandbox = await Sandbox.create({ template });
 * ```
 *
 * What was saved is memory of this program and ends with it, at the latest. An open template does not keep the program running.
 */
export class Template implements AsyncDisposable {
  readonly #parts: Omit<TemplateParts, "vms">;
  readonly #save: (signal: AbortSignal) => Promise<SavedVm>;
  readonly #changes = new Mutex();
  readonly #over = new AbortController();
  #saved: SavedVm | undefined;

  static {
    openTemplate = (template) => {
      if (!(#saved in (Object(template) as object)))
        throw new RuntimeError(
          "invalid_argument",
          'Cannot use "template": expected what Template.create resolves with',
        );
      return template.#open();
    };
  }

  private constructor(parts: Omit<TemplateParts, "vms">, save: (signal: AbortSignal) => Promise<SavedVm>) {
    this.#parts = parts;
    this.#save = save;
  }

  /**
   * Boots a VM and saves it.
   *
   * @throws failed_precondition  this machine or its configuration has no vhost-vsock, another hypervisor than QEMU, or another
   *                              machine than "microvm"
   * @throws invalid_argument, not_found, permission_denied, unavailable, deadline_exceeded, canceled  as `Sandbox.create`
   */
  static create(options: TemplateOptions): Promise<Template> {
    return keepAlive(Template.#create(options));
  }

  /**
   * Ends it. Sandboxes that were made from it stay, and the memory that was saved with the last of them; those that are being made are waited
   * for. Safe to call twice.
   */
  close(): Promise<void> {
    this.#over.abort(closed());
    return keepAlive(this.#changes.run(() => this.#drop()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  static async #create(options: TemplateOptions): Promise<Template> {
    checkTemplateOptions(options);
    requireRoot();
    const { timeoutMs = createTimeoutMs } = options;
    using limit = scope(options.signal, timeoutMs, "the creation of a template");
    return await orCanceled("the template", options.signal, () => Template.#make(options, limit.signal));
  }

  static async #make(options: TemplateOptions, signal: AbortSignal): Promise<Template> {
    signal.throwIfAborted();
    const config = await fixed(configOf(options));
    const log = createSandboxLog("template", config.logLevel, options.onLog);
    await sweepOnce(config, log);
    const image = await openHostImage(options.image, { config, log, signal });
    const rootImage = await openErofs(image, signal);
    const template = new Template({ config, image, rootImage }, async (saveSignal) =>
      saveBootedVm({
        namespace,
        sandboxId: newSandboxId(),
        config,
        hypervisor: await createDriver(config, (text) => log.warn(text)),
        // Made anew when it is gone.
        rootImage: await openErofs(image, saveSignal),
        log,
        signal: saveSignal,
      }),
    );
    await template.#changes.run(() => template.#current(signal));
    return template;
  }

  #open(): TemplateParts {
    if (this.#over.signal.aborted) throw closed();
    return {
      ...this.#parts,
      vms: { ...coldVms, originMs: performance.now(), boot: (request) => this.#restore(request) },
    };
  }

  async #restore(request: VmRequest): Promise<SandboxVm> {
    const { signal } = request;
    // The restore begins before anything else can happen to what was saved.
    const begun = this.#changes.run(async () => {
      signal.throwIfAborted();
      const saved = await this.#current(signal);
      return { vm: saved.restore(request) };
    });
    begun.then(
      ({ vm }) => vm.catch(() => {}),
      () => {},
    );
    const { vm } = await abortable(begun, signal);
    return await vm;
  }

  /** Saved anew when a file that it was made of has changed since. */
  async #current(signal: AbortSignal): Promise<SavedVm> {
    this.#over.signal.throwIfAborted();
    if (this.#saved?.isCurrent() === false) await this.#drop();
    return (this.#saved ??= await this.#save(AbortSignal.any([signal, this.#over.signal])));
  }

  async #drop(): Promise<void> {
    const saved = this.#saved;
    this.#saved = undefined;
    await saved?.[Symbol.asyncDispose]();
  }
}

function closed(): RuntimeError {
  return new RuntimeError("failed_precondition", "Cannot use the template: it was closed");
}

/** Whatever its sandboxes ask for, their VM is the saved one's like. */
async function fixed(config: Config): Promise<Config> {
  return {
    ...config,
    accel: chooseAccelerator(config.accel, await inspectHost()),
    memoryMiB: config.memoryMiB || config.defaultMemoryMiB,
    vcpus: config.vcpus || config.defaultVcpus,
  };
}
