import type { AgentEvents } from "../agent-client/agent-types.ts";
import { describe, RuntimeError } from "../base/errors.ts";
import { timed } from "../base/metrics.ts";
import { within } from "../base/scope.ts";
import { configFor } from "../config/annotations.ts";
import type { Config } from "../config/config.ts";
import type { Spec } from "../oci/spec.ts";
import { planContainer } from "./container-plan.ts";
import { endVm } from "./end-vm.ts";
import { type FirstContainer, needsShare } from "./first-container.ts";
import type { HostState } from "./host-state.ts";
import type { CreateContainerRequest, SandboxOptions } from "./model.ts";
import { PreparedBoot } from "./prepared-boot.ts";
import { removeSandbox } from "./remove.ts";
import { SharedMemory } from "./shared-memory.ts";
import { Timeline } from "./timeline.ts";
import type { SandboxVm } from "./vm.ts";

export type VmLifeOptions = Required<Pick<SandboxOptions, "vms">> & SandboxOptions;
export type Booted = { readonly host: HostState; readonly vm: SandboxVm };

/** What the owner of a VM's life learns of it. */
export interface VmLifeEvents extends AgentEvents {
  /** The VM has ended, for whatever reason. */
  onLost(reason: string): void;
  /** A close has ended the VM; what it has on the host is removed next. */
  onEnded(): void;
}

/**
 * The VM of a sandbox, from the announcement of a container over its boot to its removal, and what it has on the host. After a
 * close there can be another one.
 */
export class VmLife {
  readonly timeline: Timeline;
  readonly #options: VmLifeOptions;
  readonly #events: VmLifeEvents;
  #host: Promise<HostState> | undefined;
  #booted: Promise<Booted> | undefined;
  #prepared: PreparedBoot<Booted> | undefined;
  #pid = 0;
  #isWithoutShare = false;
  #lostReason: string | undefined;
  /** A close that failed left something on the host; the next one tries again. */
  #isLeft = false;
  #closing: Promise<void> | undefined;

  constructor(options: VmLifeOptions, events: VmLifeEvents) {
    this.#options = options;
    this.#events = events;
    this.timeline = new Timeline((phase) => options.observer?.onPhase(phase), {
      originMs: options.vms.originMs,
      programMs: options.programMs,
    });
  }

  /** Of the VMM, which may have ended; 0 before the first boot. */
  get pid(): number {
    return this.#pid;
  }

  /** A boot was asked for: the VM runs, or will, unless it is lost. */
  get isBooted(): boolean {
    return this.#booted !== undefined;
  }

  /** A boot was announced and not asked for. */
  get isPrepared(): boolean {
    return this.#prepared !== undefined;
  }

  /** The VM was booted without a share for the host's files. */
  get isWithoutShare(): boolean {
    return this.#isWithoutShare;
  }

  get isLost(): boolean {
    return this.#lostReason !== undefined;
  }

  /** Resolves with the close that goes on, if there is one. */
  get closing(): Promise<void> | undefined {
    return this.#closing;
  }

  /** Waits so long for the end of a VM that runs to be noticed, if it has ended. */
  async noticeLoss(timeoutMs: number): Promise<void> {
    const booted = await this.#booted?.catch(() => undefined);
    if (booted !== undefined) await within(booted.vm.lost, timeoutMs, undefined);
  }

  /** The VM that runs or is coming up. Rejects as its boot does. */
  get booted(): Promise<Booted> | undefined {
    return this.#booted;
  }

  /** Begins to boot for a container that nobody has asked for yet. */
  prepare({ containerId, bundle }: Pick<CreateContainerRequest, "containerId" | "bundle">): void {
    this.#prepared = new PreparedBoot(bundle, async (spec, signal) => {
      await this.#closing;
      const plan = await planContainer(spec, {
        containerId,
        terminal: spec.process?.terminal ?? false,
        isIdle: false,
        sandboxPids: [],
        memory: new SharedMemory(),
        podMounts: [],
      });
      const first = { spec, ...plan, isWithoutShare: !needsShare(plan) };
      return await this.#timedBoot(first, configFor(spec.annotations, this.#options.config), signal);
    });
  }

  /**
   * Closes what was prepared when the bundle has changed since, or its VM has ended.
   *
   * @param mayClose  asked right before; when it says no, there is one of several containers, which takes what there is
   */
  async dropUnsuited(spec: Spec, mayClose: () => boolean): Promise<void> {
    const prepared = this.#prepared;
    if (prepared === undefined) return;
    if ((await prepared.suits(spec)) && !this.isLost) return;
    if (this.#prepared === prepared && mayClose()) await this.close({ isFlushed: () => false });
  }

  /** What the sandbox has on the host, made if need be. */
  ensureHost(): Promise<HostState> {
    const { namespace, sandboxId, config, vms } = this.#options;
    return (this.#host ??= vms.createHost(namespace, sandboxId, config));
  }

  /** The VM: the one that runs, the one that was prepared, or a new one for this container. */
  ensureBooted(first: FirstContainer, config: Config, signal: AbortSignal): Promise<Booted> {
    if (this.#booted === undefined) {
      this.#booted = this.#prepared?.take(signal) ?? this.#timedBoot(first, config, signal);
      this.#prepared = undefined;
    }
    return this.#booted;
  }

  /** Ends the VM and removes what it has on the host. One that goes on is joined. @param isFlushed  see `endVm` */
  close({ isFlushed }: { isFlushed: () => boolean }): Promise<void> {
    return (this.#closing ??= this.#close(isFlushed).finally(() => {
      this.#closing = undefined;
    }));
  }

  /** Writes down how the start has gone. */
  async saveTimeline(): Promise<void> {
    const host = await this.#host;
    if (host === undefined) return;
    const { timeline, trace } = host.paths;
    const { config, log } = this.#options;
    await this.timeline.save({ timeline, trace: config.trace ? trace : undefined }, log);
  }

  lostError(cause?: unknown): RuntimeError {
    const fact = `Cannot use sandbox "${this.#options.sandboxId}": its VM has ended, ${this.#lostReason}`;
    return new RuntimeError("unavailable", fact, { cause });
  }

  #timedBoot(first: FirstContainer, config: Config, signal: AbortSignal): Promise<Booted> {
    return timed(
      () => this.#boot(first, config, signal),
      (seconds, error) => this.#options.observer?.onBoot(seconds, error),
    );
  }

  async #boot(first: FirstContainer, config: Config, signal: AbortSignal): Promise<Booted> {
    const { namespace, sandboxId, hypervisor, log, observer, vms } = this.#options;
    const host = await this.ensureHost();
    this.#isWithoutShare = first.isWithoutShare ?? false;
    const vm = await vms
      .boot({
        namespace,
        sandboxId,
        host,
        config,
        hypervisor,
        ...first,
        log,
        timeline: this.timeline,
        observer,
        signal,
        events: this.#events,
      })
      .catch((error: unknown) => {
        host.shared.abandon(error);
        throw error;
      });
    this.#pid = vm.vm.identity.pid;
    void vm.lost.then((reason) => {
      this.#lostReason = reason;
      this.#events.onLost(reason);
    });
    return { host, vm };
  }

  async #close(isFlushed: () => boolean): Promise<void> {
    const { namespace, sandboxId, config, log } = this.#options;
    this.#prepared?.abort();
    const booted = await (this.#booted ?? this.#prepared?.booted)?.catch(() => undefined);
    this.#prepared = undefined;
    const host = await this.#host?.catch(() => undefined);
    if (booted !== undefined) {
      await endVm(booted.vm, { isLost: this.isLost, isFlushed: isFlushed(), log }).catch((error: unknown) => {
        // What it holds is in the journal: the removal below has the last word on it.
        log.warn({ error: describe(error) }, "cannot end the VM in order");
      });
      await booted.vm.lost;
    }
    host?.shared[Symbol.dispose]();
    host?.journal[Symbol.dispose]();
    this.#booted = undefined;
    this.#host = undefined;
    this.#lostReason = undefined;
    this.#isWithoutShare = false;
    this.#events.onEnded();
    if (host === undefined && !this.#isLeft) return;
    this.#isLeft = true;
    await removeSandbox({ stateDirectory: config.stateDirectory, namespace, sandboxId });
    this.#isLeft = false;
  }
}
