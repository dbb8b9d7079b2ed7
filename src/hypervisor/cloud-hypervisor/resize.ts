import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../base/errors.ts";
import { Mutex } from "../../base/mutex.ts";
import type { VmConfig } from "../vm-config.ts";
import { growingMiB } from "./plan.ts";
import { type Api, readMemoryBytes, resizeVm } from "./rest.ts";

/** How long the guest may take to take memory, and how often it is looked at: no event tells of it. */
const memoryTimeoutMs = 20_000;
const memoryLookMs = 50;
const mebibyte = 1024 ** 2;
/** Linux takes memory in pieces of this size (its largest block of pages); a part of one it leaves. */
const memoryStepMiB = 4;

export interface ResizeParts {
  readonly config: VmConfig;
  /** Runs requests of the API. */
  readonly call: <T>(work: (api: Api) => Promise<T>) => Promise<T>;
}

/** The size of a running Cloud Hypervisor with `Growth`. One change at a time. */
export class Resize {
  readonly #parts: ResizeParts;
  readonly #changes = new Mutex();
  #vcpus: number;
  /** Beyond what it has booted with, as it was asked for. */
  #moreMiB = 0;

  constructor(parts: ResizeParts) {
    this.#parts = parts;
    this.#vcpus = parts.config.vcpus;
  }

  resize({ vcpus, memoryMiB }: { vcpus: number; memoryMiB: number }): Promise<void> {
    return this.#changes.run(async () => {
      await this.#growMemory(memoryMiB);
      await this.#addCpus(vcpus);
    });
  }

  async #growMemory(memoryMiB: number): Promise<void> {
    const { config, call } = this.#parts;
    const moreMiB = Math.ceil((memoryMiB - config.memoryMiB) / memoryStepMiB) * memoryStepMiB;
    const limitMiB = growingMiB(config);
    if (memoryMiB - config.memoryMiB > limitMiB)
      throw this.#refuse(`${memoryMiB} MiB of memory`, `it can have ${config.memoryMiB + limitMiB} MiB`);
    if (moreMiB <= this.#moreMiB) return;
    await this.#ask(moreMiB);
    const wanted = (config.memoryMiB + moreMiB) * mebibyte;
    const end = performance.now() + memoryTimeoutMs;
    let bytes = 0;
    do {
      bytes = await call(readMemoryBytes);
      if (bytes >= wanted) return;
      await sleep(memoryLookMs);
    } while (performance.now() < end);
    // It keeps what it has taken, but is not to take more while nobody counts on it.
    const takenMiB = Math.max(0, Math.floor(bytes / mebibyte) - config.memoryMiB);
    await this.#ask(takenMiB);
    throw this.#refuse(
      `${memoryMiB} MiB of memory`,
      `within ${memoryTimeoutMs} ms its guest has taken ${takenMiB} MiB of ${moreMiB} MiB`,
    );
  }

  async #ask(moreMiB: number): Promise<void> {
    // What was asked for already is refused.
    if (moreMiB === this.#moreMiB) return;
    const { config, call } = this.#parts;
    await call((api) => resizeVm(api, { desired_ram: (config.memoryMiB + moreMiB) * mebibyte }));
    this.#moreMiB = moreMiB;
  }

  async #addCpus(vcpus: number): Promise<void> {
    const { config, call } = this.#parts;
    const most = Math.max(config.vcpus, config.growth?.maxVcpus ?? 0);
    if (vcpus > most) throw this.#refuse(`${vcpus} vCPUs`, `it can have ${most}`);
    if (vcpus <= this.#vcpus) return;
    await call((api) => resizeVm(api, { desired_vcpus: vcpus }));
    this.#vcpus = vcpus;
  }

  #refuse(size: string, fact: string): RuntimeError {
    const { sandboxId } = this.#parts.config;
    return new RuntimeError("resource_exhausted", `Cannot grow sandbox "${sandboxId}" to ${size}: ${fact}`);
  }
}
