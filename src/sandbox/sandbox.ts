import type { Duplex } from "node:stream";
import { describe, RuntimeError } from "../base/errors.ts";
import { checkId } from "../base/ids.ts";
import type { Log } from "../base/log.ts";
import { timed } from "../base/metrics.ts";
import { configFor } from "../config/annotations.ts";
import type { Config } from "../config/config.ts";
import { loadSpec, type Spec, type SpecMount } from "../oci/spec.ts";
import { GuestContainer } from "./container.ts";
import { removeContainerFiles } from "./container-files.ts";
import { planContainer } from "./container-plan.ts";
import { checkFits, type FirstContainer, needsShare } from "./first-container.ts";
import { mayLeaveWrites } from "./guest-writes.ts";
import type { HostState } from "./host-state.ts";
import type { ContainerHooks } from "./hooks.ts";
import type { ProcessIo } from "./io.ts";
import { forgetInGuest, joinLateNetwork, makeInGuest } from "./make-in-guest.ts";
import type {
  BootedSandbox,
  BootRequest,
  Container,
  CreateContainerRequest,
  ExitStatus,
  Sandbox,
  SandboxEvent,
  SandboxOptions,
} from "./model.ts";
import { OomKills } from "./oom-kills.ts";
import { PreparedBoot } from "./prepared-boot.ts";
import { GuestProcess } from "./process.ts";
import { removeSandbox } from "./remove.ts";
import { SharedMemory } from "./shared-memory.ts";
import { Timeline } from "./timeline.ts";
import { endVm } from "./end-vm.ts";
import type { SandboxVm } from "./vm.ts";
import { coldVms } from "./vm-source.ts";

/** A process that ended because somebody asked for its SIGKILL, and because its VM died under it. */
const killedExitCode = 137;
const lostExitCode = 255;

/** A sandbox without a VM yet; its first container boots one. @throws invalid_argument for a bad id or namespace */
export function createSandbox(options: SandboxOptions): Sandbox {
  checkId("namespace", options.namespace);
  checkId("sandbox id", options.sandboxId);
  return new VmSandbox({ vms: coldVms, ...options });
}

type Options = Required<Pick<SandboxOptions, "vms">> & SandboxOptions;
type Booted = { readonly host: HostState; readonly vm: SandboxVm };

class VmSandbox implements Sandbox {
  readonly standIns = new Set<number>();
  readonly #options: Options;
  readonly #containers = new Map<string, GuestContainer>();
  /** Containers that are being created: their ids are taken, and the VM is needed. */
  readonly #creating = new Set<string>();
  /** Exits of inits that died before their create call was over. */
  readonly #earlyExits = new Map<string, number>();
  readonly #oomKills = new OomKills();
  readonly #timeline: Timeline;
  readonly #memory = new SharedMemory();
  #host: Promise<HostState> | undefined;
  #booted: Promise<Booted> | undefined;
  #prepared: PreparedBoot<Booted> | undefined;
  #pid = 0;
  #isWithoutShare = false;
  #lostReason: string | undefined;
  #killRequested = false;
  /** A container may leave something for the guest to write back. */
  #leavesWrites = false;
  /** The VM is closed because its last container was deleted. */
  #isDeserted = false;
  /** A close that failed left something on the host; the next one tries again. */
  #isLeft = false;
  #closing: Promise<void> | undefined;
  /** Whether `boot` made it. Then its life does not depend on containers, and it is over once it is closed. */
  #hold: "none" | "held" | "over" = "none";
  #podMounts: readonly SpecMount[] = [];

  constructor(options: Options) {
    this.#options = options;
    this.#timeline = new Timeline((phase) => options.observer?.onPhase(phase), {
      originMs: options.vms.originMs,
      programMs: options.programMs,
    });
  }

  get id(): string {
    return this.#options.sandboxId;
  }

  get pid(): number {
    return this.#pid;
  }

  get containers(): readonly Container[] {
    return [...this.#containers.values()];
  }

  container(containerId: string): Container {
    const container = this.#containers.get(containerId);
    if (container !== undefined) return container;
    throw new RuntimeError("not_found", `Cannot find container "${containerId}"`);
  }

  async boot({ spec, mounts }: BootRequest, { signal }: { signal: AbortSignal }): Promise<BootedSandbox> {
    this.#timeline.onRequest();
    if (this.#hold !== "none" || this.#booted !== undefined) {
      throw new RuntimeError("failed_precondition", `Cannot boot sandbox "${this.id}": it was booted before`);
    }
    this.#hold = "held";
    this.#podMounts = mounts;
    try {
      const { vm } = await this.#ensureBooted(
        { spec, blockDevices: [] },
        configFor(spec.annotations, this.#options.config),
        signal,
      );
      const exitCode = () => (this.#closing === undefined ? lostExitCode : 0);
      const ended = vm.lost.then((): ExitStatus => ({ exitCode: exitCode(), exitedAt: new Date() }));
      void this.#saveTimeline();
      return { ended };
    } catch (error) {
      await this.#closeFailed();
      throw error;
    }
  }

  prepare({ containerId, bundle }: Pick<CreateContainerRequest, "containerId" | "bundle">): void {
    if (this.#booted !== undefined || this.#prepared !== undefined || this.#creating.size > 0) return;
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

  async createContainer(
    request: CreateContainerRequest,
    { signal }: { signal: AbortSignal },
  ): Promise<Container> {
    const containerId = checkId("container id", request.containerId);
    if (this.#containers.has(containerId) || this.#creating.has(containerId)) {
      throw new RuntimeError("already_exists", `Cannot create container "${containerId}": the id is in use`);
    }
    if (this.#lostReason !== undefined && this.#prepared === undefined) throw this.#lostError();
    if (this.#hold === "over") {
      throw new RuntimeError(
        "failed_precondition",
        `Cannot create container "${containerId}": its sandbox was stopped`,
      );
    }
    this.#creating.add(containerId);
    try {
      await this.#closing;
      const container = await this.#create(request, signal);
      this.#containers.set(containerId, container);
      this.#options.emit({ type: "create", container });
      const earlyExit = this.#earlyExits.get(containerId);
      if (earlyExit !== undefined) container.onGuestExit("", earlyExit);
      return container;
    } catch (error) {
      this.#creating.delete(containerId);
      if (this.#containers.size === 0 && this.#creating.size === 0 && this.#hold === "none") {
        await this.#closeFailed();
      }
      throw error;
    } finally {
      this.#creating.delete(containerId);
      this.#earlyExits.delete(containerId);
    }
  }

  async connect(guestPort: number, { signal }: { signal: AbortSignal }): Promise<Duplex> {
    if (this.#booted === undefined || this.#lostReason !== undefined) {
      throw new RuntimeError(
        "failed_precondition",
        `Cannot connect to port ${guestPort} of sandbox "${this.id}": its VM does not run`,
      );
    }
    const { vm } = await this.#booted;
    return vm.connect({ tag: "port", port: guestPort }, signal);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close().finally(() => {
      this.#closing = undefined;
    }));
  }

  /** The caller learns why it failed; what is left is in the journal, for `delete`. */
  async #closeFailed(): Promise<void> {
    const fact = "cannot remove a sandbox that failed";
    await this.close().catch((cause: unknown) => this.#options.log.error({ error: describe(cause) }, fact));
  }

  async #create(request: CreateContainerRequest, signal: AbortSignal): Promise<GuestContainer> {
    this.#timeline.onRequest();
    const { containerId, bundle, stdio } = request;
    const spec = await loadSpec(bundle);
    await this.#dropUnsuited(spec);
    const config = configFor(spec.annotations, this.#options.config);
    // Before anything is made: what a guest cannot have is refused at once.
    const plan = await planContainer(spec, {
      rootImage: request.rootImage,
      containerId,
      terminal: stdio.terminal,
      isIdle: request.isIdle ?? false,
      sandboxPids: this.#booted === undefined ? [] : [this.#pid, ...this.standIns],
      memory: this.#memory,
      podMounts: this.#podMounts,
    });
    const isBooted = this.#booted !== undefined;
    checkFits(containerId, plan, { isBooted, isWithoutShare: this.#isWithoutShare });
    this.#leavesWrites ||= mayLeaveWrites(spec, plan);
    const host = await this.#ensureHost();
    const log = this.#options.log.child({ container: containerId });
    try {
      const made = await makeInGuest(
        { request, spec, plan },
        {
          host,
          boot: () =>
            this.#ensureBooted({ spec, ...plan, isWithoutShare: !needsShare(plan) }, config, signal),
          timeline: this.#timeline,
          log,
          observer: this.#options.observer,
        },
        signal,
      );
      return this.#assemble(request, { vm: made.vm, host }, { ...made, spec, log });
    } catch (error) {
      await this.#undoCreate(request, host);
      throw this.#lostReason !== undefined && this.#containers.size === 0 ? this.#lostError(error) : error;
    }
  }

  /** Takes a half-made container out of a VM that other containers go on using; `close` removes the rest otherwise. */
  async #undoCreate(request: CreateContainerRequest, host: HostState): Promise<void> {
    const booted = await this.#booted?.catch(() => undefined);
    const isShared = this.#containers.size > 0 || this.#hold !== "none";
    if (booted !== undefined && isShared)
      await forgetInGuest(booted.vm, request.containerId, this.#options.log);
    await removeContainerFiles(request, host.shared).catch((error: unknown) => {
      this.#options.log.warn({ error: describe(error) }, "cannot remove the files of a failed container");
    });
  }

  #assemble(
    request: CreateContainerRequest,
    { vm, host }: Booted,
    { io, hooks, spec, log }: { io: ProcessIo; hooks: ContainerHooks; spec: Spec; log: Log },
  ): GuestContainer {
    const { containerId, bundle, rootfs, stdio } = request;
    const { agentCallTimeoutMs, drainTimeoutMs } = this.#options.config;
    const common = {
      agent: vm.agent,
      drainTimeoutMs,
      hostPid: vm.vm.identity.pid,
      killVm: () => this.#killVm(vm),
    };
    const init = new GuestProcess({ ...common, containerId, execId: "", stdio });
    init.attachIo(io);
    return new GuestContainer({
      ...common,
      growth: vm.growth,
      id: containerId,
      bundle,
      rootfs,
      init,
      hooks,
      log,
      observer: this.#options.observer,
      openStream: (execId) => vm.openStream(containerId, execId),
      descriptors: request.descriptors,
      connectDescriptor: (execId) => (fd, signal) =>
        vm.connect({ tag: "descriptor", containerId, execId, fd }, signal),
      joinLateNetwork: () =>
        joinLateNetwork(vm, { sandboxId: this.id, spec, timeoutMs: agentCallTimeoutMs, log }),
      emit: (event) => this.#onContainerEvent(event),
      release: () => this.#release(request, { vm, host }),
    });
  }

  #onContainerEvent(event: SandboxEvent): void {
    this.#options.emit(event);
    if (event.type === "start") void this.#saveTimeline();
  }

  #ensureHost(): Promise<HostState> {
    const { namespace, sandboxId, config, vms } = this.#options;
    return (this.#host ??= vms.createHost(namespace, sandboxId, config));
  }

  #ensureBooted(first: FirstContainer, config: Config, signal: AbortSignal): Promise<Booted> {
    if (this.#booted === undefined) {
      this.#booted = this.#prepared?.take(signal) ?? this.#timedBoot(first, config, signal);
      this.#prepared = undefined;
    }
    return this.#booted;
  }

  /** The bundle has changed since the boot for it began, or that VM has ended; but one of several containers takes what there is. */
  async #dropUnsuited(spec: Spec): Promise<void> {
    const prepared = this.#prepared;
    if (prepared === undefined) return;
    if ((await prepared.suits(spec)) && this.#lostReason === undefined) return;
    if (this.#prepared === prepared && this.#creating.size === 1) await this.close();
  }

  #timedBoot(first: FirstContainer, config: Config, signal: AbortSignal): Promise<Booted> {
    return timed(
      () => this.#boot(first, config, signal),
      (seconds, error) => this.#options.observer?.onBoot(seconds, error),
    );
  }

  async #boot(first: FirstContainer, config: Config, signal: AbortSignal): Promise<Booted> {
    const { namespace, sandboxId, hypervisor, log, observer, vms } = this.#options;
    const host = await this.#ensureHost();
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
        timeline: this.#timeline,
        observer,
        signal,
        events: {
          onExit: ({ containerId, execId, exitCode }) => this.#onGuestExit(containerId, execId, exitCode),
          onOomKill: (containerId) => this.#onOomKill(containerId),
          onNotification: (containerId, text) => this.#containers.get(containerId)?.notifications.push(text),
        },
      })
      .catch((error: unknown) => {
        host.shared.abandon(error);
        throw error;
      });
    this.#pid = vm.vm.identity.pid;
    void vm.lost.then((reason) => this.#onVmLost(reason));
    return { host, vm };
  }

  #onGuestExit(containerId: string, execId: string, exitCode: number): void {
    const container = this.#containers.get(containerId);
    if (container !== undefined) container.onGuestExit(execId, exitCode);
    else if (this.#creating.has(containerId) && execId === "") this.#earlyExits.set(containerId, exitCode);
  }

  #onOomKill(containerId: string): void {
    const container = this.#containers.get(containerId);
    if (container !== undefined && this.#oomKills.isNews(container))
      this.#options.emit({ type: "oom", container });
  }

  /** The VM has ended, for whatever reason: every process that was in it has ended too. */
  #onVmLost(reason: string): void {
    this.#lostReason = reason;
    const isExpected = this.#closing !== undefined;
    if (!isExpected) {
      this.#options.observer?.onVmLost(reason);
      this.#options.log.error({ reason }, "the VM has ended");
    }
    // Who closes a sandbox with processes in it has asked for their end as well.
    const exitCode = this.#killRequested || isExpected ? killedExitCode : lostExitCode;
    for (const container of this.#containers.values()) void container.onVmExit(exitCode);
  }

  #killVm(vm: SandboxVm): void {
    this.#killRequested = true;
    this.#options.log.warn("a SIGKILL has no effect in the guest: its VM is killed");
    void vm.vm.stop({ graceMs: 0 });
  }

  /** A container was deleted. The last one takes the VM with it. */
  async #release(request: CreateContainerRequest, booted: Booted): Promise<void> {
    const { containerId } = request;
    const isLast = this.#containers.size === 1 && this.#creating.size === 0;
    if (isLast && this.#hold === "none") {
      this.#isDeserted = true;
      await this.close();
    } else {
      if (this.#lostReason === undefined && this.#hold !== "over")
        await forgetInGuest(booted.vm, containerId, this.#options.log);
      await removeContainerFiles(request, booted.host.shared);
    }
    this.#containers.delete(containerId);
  }

  async #close(): Promise<void> {
    const { namespace, sandboxId, config } = this.#options;
    if (this.#hold === "held") this.#hold = "over";
    this.#prepared?.abort();
    const booted = await (this.#booted ?? this.#prepared?.booted)?.catch(() => undefined);
    this.#prepared = undefined;
    const host = await this.#host?.catch(() => undefined);
    if (booted !== undefined) {
      const isLost = this.#lostReason !== undefined;
      const isFlushed = this.#isDeserted && !this.#leavesWrites;
      await endVm(booted.vm, { isLost, isFlushed, log: this.#options.log }).catch((error: unknown) => {
        // What it holds is in the journal: the removal below has the last word on it.
        this.#options.log.warn({ error: describe(error) }, "cannot end the VM in order");
      });
      await booted.vm.lost;
    }
    host?.shared[Symbol.dispose]();
    host?.journal[Symbol.dispose]();
    this.#booted = undefined;
    this.#memory.clear();
    this.#host = undefined;
    this.#lostReason = undefined;
    this.#killRequested = false;
    this.#isWithoutShare = false;
    this.#leavesWrites = false;
    this.#isDeserted = false;
    if (host === undefined && !this.#isLeft) return;
    this.#isLeft = true;
    await removeSandbox({ stateDirectory: config.stateDirectory, namespace, sandboxId });
    this.#isLeft = false;
  }

  async #saveTimeline(): Promise<void> {
    const host = await this.#host;
    if (host === undefined) return;
    const { timeline, trace } = host.paths;
    const { config, log } = this.#options;
    await this.#timeline.save({ timeline, trace: config.trace ? trace : undefined }, log);
  }

  #lostError(cause?: unknown): RuntimeError {
    const fact = `Cannot use sandbox "${this.id}": its VM has ended, ${this.#lostReason}`;
    return new RuntimeError("unavailable", fact, { cause });
  }
}
