import type { Duplex } from "node:stream";
import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import { checkId } from "../base/ids.ts";
import type { Log } from "../base/log.ts";
import { configFor } from "../config/annotations.ts";
import { loadSpec, type Spec, type SpecMount } from "../oci/spec.ts";
import { GuestContainer } from "./container.ts";
import { removeContainerFiles } from "./container-files.ts";
import { planContainer } from "./container-plan.ts";
import { checkFits, needsShare } from "./first-container.ts";
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
import { readyNamespace } from "./paths.ts";
import { GuestProcess } from "./process.ts";
import { SharedMemory } from "./shared-memory.ts";
import type { SandboxVm } from "./vm.ts";
import { type Booted, VmLife, type VmLifeOptions } from "./vm-life.ts";
import { coldVms } from "./vm-source.ts";

/** A process that ended because somebody asked for its SIGKILL, and because its VM died under it. */
const killedExitCode = 137;
const lostExitCode = 255;
/** How long the end of the VM may take to be noticed after that of a connection to it. */
const lossNoticeMs = 1_000;

/** A sandbox without a VM yet; its first container boots one. @throws invalid_argument for a bad id or namespace */
export function createSandbox(options: SandboxOptions): Sandbox {
  if (options.namespace !== readyNamespace) checkId("namespace", options.namespace);
  checkId("sandbox id", options.sandboxId);
  return new VmSandbox({ vms: coldVms, ...options });
}

class VmSandbox implements Sandbox {
  readonly standIns = new Set<number>();
  readonly #options: VmLifeOptions;
  readonly #life: VmLife;
  readonly #containers = new Map<string, GuestContainer>();
  /** Containers that are being created: their ids are taken, and the VM is needed. */
  readonly #creating = new Set<string>();
  /** Exits of inits that died before their create call was over. */
  readonly #earlyExits = new Map<string, number>();
  readonly #oomKills = new OomKills();
  readonly #memory = new SharedMemory();
  #killRequested = false;
  /** A container may leave something for the guest to write back. */
  #leavesWrites = false;
  /** The VM is closed because its last container was deleted. */
  #isDeserted = false;
  /** Whether `boot` made it. Then its life does not depend on containers, and it is over once it is closed. */
  #hold: "none" | "held" | "over" = "none";
  #podMounts: readonly SpecMount[] = [];

  constructor(options: VmLifeOptions) {
    this.#options = options;
    this.#life = new VmLife(options, {
      onExit: ({ containerId, execId, exitCode }) => this.#onGuestExit(containerId, execId, exitCode),
      onOomKill: (containerId) => this.#onOomKill(containerId),
      onNotification: (containerId, text) => this.#containers.get(containerId)?.notifications.push(text),
      onLost: (reason) => this.#onVmLost(reason),
      onEnded: () => this.#onVmEnded(),
    });
  }

  get id(): string {
    return this.#options.sandboxId;
  }

  get pid(): number {
    return this.#life.pid;
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
    this.#life.timeline.onRequest();
    if (this.#hold !== "none" || this.#life.isBooted) {
      throw new RuntimeError("failed_precondition", `Cannot boot sandbox "${this.id}": it was booted before`);
    }
    this.#hold = "held";
    this.#podMounts = mounts;
    try {
      const { vm } = await this.#life.ensureBooted(
        { spec, blockDevices: [] },
        configFor(spec.annotations, this.#options.config),
        signal,
      );
      const exitCode = () => (this.#life.closing === undefined ? lostExitCode : 0);
      const ended = vm.lost.then((): ExitStatus => ({ exitCode: exitCode(), exitedAt: new Date() }));
      void this.#life.saveTimeline();
      return { ended };
    } catch (error) {
      await this.#closeFailed();
      throw error;
    }
  }

  prepare(announced: Pick<CreateContainerRequest, "containerId" | "bundle">): void {
    if (!this.#life.isBooted && !this.#life.isPrepared && this.#creating.size === 0)
      this.#life.prepare(announced);
  }

  async createContainer(
    request: CreateContainerRequest,
    { signal }: { signal: AbortSignal },
  ): Promise<Container> {
    const containerId = checkId("container id", request.containerId);
    if (this.#containers.has(containerId) || this.#creating.has(containerId)) {
      throw new RuntimeError("already_exists", `Cannot create container "${containerId}": the id is in use`);
    }
    if (this.#life.isLost && !this.#life.isPrepared) throw this.#life.lostError();
    if (this.#hold === "over") {
      throw new RuntimeError(
        "failed_precondition",
        `Cannot create container "${containerId}": its sandbox was stopped`,
      );
    }
    this.#creating.add(containerId);
    try {
      await this.#life.closing;
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
    const { booted, isLost } = this.#life;
    if (booted === undefined || isLost) {
      throw new RuntimeError(
        "failed_precondition",
        `Cannot connect to port ${guestPort} of sandbox "${this.id}": its VM does not run`,
      );
    }
    const { vm } = await booted;
    return vm.connect({ tag: "port", port: guestPort }, signal);
  }

  close(): Promise<void> {
    if (this.#hold === "held") this.#hold = "over";
    return this.#life.close({ isFlushed: () => this.#isDeserted && !this.#leavesWrites });
  }

  /** The caller learns why it failed; what is left is in the journal, for `delete`. */
  async #closeFailed(): Promise<void> {
    const fact = "cannot remove a sandbox that failed";
    await this.close().catch((cause: unknown) => this.#options.log.error({ error: describe(cause) }, fact));
  }

  async #create(request: CreateContainerRequest, signal: AbortSignal): Promise<GuestContainer> {
    this.#life.timeline.onRequest();
    const { containerId, bundle, stdio } = request;
    const spec = await loadSpec(bundle);
    await this.#life.dropUnsuited(spec, () => this.#creating.size === 1);
    const config = configFor(spec.annotations, this.#options.config);
    // Before anything is made: what a guest cannot have is refused at once.
    const plan = await planContainer(spec, {
      rootImage: request.rootImage,
      containerId,
      terminal: stdio.terminal,
      isIdle: request.isIdle ?? false,
      sandboxPids: this.#life.isBooted ? [this.pid, ...this.standIns] : [],
      memory: this.#memory,
      podMounts: this.#podMounts,
    });
    checkFits(containerId, plan, this.#life);
    this.#leavesWrites ||= mayLeaveWrites(spec, plan);
    const host = await this.#life.ensureHost();
    const log = this.#options.log.child({ container: containerId });
    try {
      const made = await makeInGuest(
        { request, spec, plan },
        {
          host,
          boot: () =>
            this.#life.ensureBooted({ spec, ...plan, isWithoutShare: !needsShare(plan) }, config, signal),
          timeline: this.#life.timeline,
          log,
          observer: this.#options.observer,
        },
        signal,
      );
      return this.#assemble(request, { vm: made.vm, host }, { ...made, spec, log });
    } catch (error) {
      // A broken connection is noticed before the end of the VM that broke it.
      if (codeOf(error) === "unavailable") await this.#life.noticeLoss(lossNoticeMs);
      await this.#undoCreate(request, host);
      throw this.#life.isLost && this.#containers.size === 0 ? this.#life.lostError(error) : error;
    }
  }

  /** Takes a half-made container out of a VM that other containers go on using; `close` removes the rest otherwise. */
  async #undoCreate(request: CreateContainerRequest, host: HostState): Promise<void> {
    const booted = await this.#life.booted?.catch(() => undefined);
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
    if (event.type === "start") void this.#life.saveTimeline();
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
    const isExpected = this.#life.closing !== undefined;
    if (!isExpected) {
      this.#options.observer?.onVmLost(reason);
      this.#options.log.error({ reason }, "the VM has ended");
    }
    // Who closes a sandbox with processes in it has asked for their end as well.
    const exitCode = this.#killRequested || isExpected ? killedExitCode : lostExitCode;
    for (const container of this.#containers.values()) void container.onVmExit(exitCode);
  }

  #onVmEnded(): void {
    this.#memory.clear();
    this.#killRequested = false;
    this.#leavesWrites = false;
    this.#isDeserted = false;
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
      if (!this.#life.isLost && this.#hold !== "over")
        await forgetInGuest(booted.vm, containerId, this.#options.log);
      await removeContainerFiles(request, booted.host.shared);
    }
    this.#containers.delete(containerId);
  }
}
