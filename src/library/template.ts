import { RuntimeError } from "../base/errors.ts";
import { keepAlive } from "../base/keep-alive.ts";
import { Mutex } from "../base/mutex.ts";
import { scope } from "../base/scope.ts";
import type { Config } from "../config/config.ts";
import { createDriver } from "../hypervisor/drivers.ts";
import { openErofs } from "../image/erofs.ts";
import type { Image } from "../image/store.ts";
import { type SavedVm, saveBootedVm } from "../sandbox/saved-vm.ts";
import type { VmSource } from "../sandbox/vm-source.ts";
import { checkTemplateOptions } from "./check.ts";
import { configOf, namespace, newSandboxId, openHostImage, requireRoot } from "./host.ts";
import { createSandboxLog } from "./log.ts";
import type { TemplateOptions } from "./options.ts";
import { sweepOnce } from "./sweep.ts";

/** What a sandbox has from its template. */
export interface TemplateParts {
  readonly config: Config;
  readonly image: Image;
  readonly rootImage: string;
  readonly vms: VmSource;
}

/** For the sandboxes that are made from it. @throws failed_precondition  it was closed */
export let openTemplate: (template: Template, signal: AbortSignal) => Promise<TemplateParts>;

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
  #saved: SavedVm | undefined;
  #isClosed = false;

  static {
    openTemplate = (template, signal) => template.#open(signal);
  }

  private constructor(parts: Omit<TemplateParts, "vms">, save: (signal: AbortSignal) => Promise<SavedVm>) {
    this.#parts = parts;
    this.#save = save;
  }

  /**
   * Boots a VM and saves it.
   *
   * @throws failed_precondition  this machine or its configuration has no vhost-vsock, no QEMU, or another machine type
   * @throws invalid_argument, not_found, permission_denied, unavailable, deadline_exceeded, canceled  as `Sandbox.create`
   */
  static create(options: TemplateOptions): Promise<Template> {
    return keepAlive(Template.#create(options));
  }

  /** Frees the memory. Sandboxes that were made from it stay. Safe to call twice. */
  close(): Promise<void> {
    this.#isClosed = true;
    return keepAlive(this.#changes.run(() => this.#drop()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  static async #create(options: TemplateOptions): Promise<Template> {
    checkTemplateOptions(options);
    requireRoot();
    using limit = scope(options.signal, options.timeoutMs ?? createTimeoutMs, "the creation of a template");
    const { signal } = limit;
    signal.throwIfAborted();
    const config = fixedSize(configOf(options));
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
        rootImage,
        log,
        signal: saveSignal,
      }),
    );
    await template.#open(signal);
    return template;
  }

  /** Saved anew when a file that it was made of has changed since. */
  #open(signal: AbortSignal): Promise<TemplateParts> {
    return this.#changes.run(async () => {
      if (this.#isClosed)
        throw new RuntimeError("failed_precondition", "Cannot use the template: it was closed");
      if (this.#saved?.isCurrent() === false) await this.#drop();
      this.#saved ??= await this.#save(signal);
      return { ...this.#parts, vms: this.#saved.source() };
    });
  }

  async #drop(): Promise<void> {
    const saved = this.#saved;
    this.#saved = undefined;
    await saved?.[Symbol.asyncDispose]();
  }
}

/** Whatever limits its sandboxes have, their VM is as large as the saved one. */
function fixedSize(config: Config): Config {
  return {
    ...config,
    memoryMiB: config.memoryMiB || config.defaultMemoryMiB,
    vcpus: config.vcpus || config.defaultVcpus,
  };
}
