import { Notifications } from "./notifications.ts";
import type { Agent } from "../agent-client/agent.ts";
import type { ConnectDescriptor, HandedDescriptors } from "./handed-descriptors.ts";
import type { ContainerHooks } from "./hooks.ts";
import type { OpenGuestStream } from "./io.ts";
import { ProcessIo } from "./io.ts";
import { asError, codeOf, describe, RuntimeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { Mutex } from "../base/mutex.ts";
import { scope, within } from "../base/scope.ts";
import type {
  Container,
  ContainerStats,
  ExecRequest,
  FileTransferRequest,
  GuestPid,
  Mount,
  Process,
  SandboxEvent,
  ShownProcesses,
} from "./model.ts";
import type { SandboxObserver } from "./observer.ts";
import { GuestProcess } from "./process.ts";
import { loadConsoleSize } from "./console-size.ts";
import { declareStdio } from "./stdio-ends.ts";
import { checkMemoryLimit, planUpdate } from "./update.ts";
import type { VmGrowth } from "./vm-growth.ts";

/** A process that the guest kills with its init counts as killed by SIGKILL. */
const killedExitCode = 137;
/** How long a created, never started init may take to die when its container is deleted. */
const abandonTimeoutMs = 5_000;
/** A delete must end when the guest hangs, too. */
const forgetTimeoutMs = 4_000;
/** containerd asks for statistics with a limit of 2 s. */
const statsTimeoutMs = 1_500;
/** Whoever looks for processes on the host waits five seconds for them (the stand-in). */
const processesTimeoutMs = 4_000;

export interface ContainerOptions {
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: readonly Mount[];
  readonly init: GuestProcess;
  readonly hooks: ContainerHooks;
  readonly agent: Agent;
  readonly log: Log;
  readonly observer: SandboxObserver | undefined;
  readonly hostPid: number;
  readonly growth: Pick<VmGrowth, "size" | "most" | "change">;
  readonly drainTimeoutMs: number;
  readonly openStream: (execId: string) => OpenGuestStream;
  /** What init has of the host's. Owned. */
  readonly descriptors: HandedDescriptors | undefined;
  readonly connectDescriptor: (execId: string) => ConnectDescriptor;
  readonly killVm: () => void;
  /** Gives the guest a network that was set up since the create. */
  readonly joinLateNetwork: () => Promise<void>;
  readonly emit: (event: SandboxEvent) => void;
  /** Releases what the container holds in the guest and on the host. */
  readonly release: () => Promise<void>;
}

const noStdio = { stdin: "", stdout: "", stderr: "", terminal: false };

/** A container in the guest. */
export class GuestContainer implements Container {
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: readonly Mount[];
  readonly init: GuestProcess;
  readonly #options: ContainerOptions;
  readonly #execs = new Map<string, GuestProcess>();
  /** Deleted execs that the guest still has; nobody waits for that but the next one of the same id. */
  readonly #forgetting = new Map<string, Promise<void>>();
  /** One change at a time; `kill`, `wait` and the getters do not take it. */
  readonly #changes = new Mutex();
  #initExit: Promise<void> | undefined;
  #lastStats: ContainerStats | undefined;
  #isReleased = false;

  readonly notifications = new Notifications();

  constructor(options: ContainerOptions) {
    this.id = options.id;
    this.bundle = options.bundle;
    this.rootfs = options.rootfs;
    this.init = options.init;
    this.#options = options;
    options.descriptors?.connect(options.connectDescriptor(""), options.log);
  }

  process(execId: string): Process {
    return this.#process(execId);
  }

  async start(execId: string): Promise<void> {
    const process = this.#process(execId);
    const { emit } = this.#options;
    if (process === this.init) {
      await process.start(
        () => this.#options.joinLateNetwork(),
        () => emit({ type: "start", container: this }),
      );
      this.#options.descriptors?.listen(this.#options.connectDescriptor(""), this.#options.log);
      await this.#tolerate("poststart", this.#options.hooks.afterStart());
      return;
    }
    if (this.init.isFinishing) throw this.#wrongState(`start "${execId}" in`);
    await process.start(
      () => this.#connectExec(process),
      () => emit({ type: "exec-started", container: this, process }),
    );
  }

  async exec(request: ExecRequest): Promise<Process> {
    const { execId, stdio, streams, processJson, descriptors } = request;
    this.#checkFree(execId);
    const { tag } = this.init.state;
    if (this.init.isFinishing || (tag !== "running" && tag !== "created" && tag !== "starting")) {
      throw this.#wrongState(`add process "${execId}" to`);
    }
    const process = await this.#register({ execId, stdio, streams }, () =>
      this.#options.agent.createExec({
        containerId: this.id,
        execId,
        ociProcessJson: processJson,
        stdio: { ...declareStdio(request), ...loadConsoleSize(processJson) },
        descriptors: descriptors?.guest ?? [],
      }),
    );
    process.dial(this.#options.openStream(execId));
    if (descriptors !== undefined)
      process.takeDescriptors(descriptors, this.#options.connectDescriptor(execId), this.#options.log);
    this.#options.emit({ type: "exec-added", container: this, execId });
    return process;
  }

  async transferFiles(request: FileTransferRequest): Promise<Process> {
    const { streams, ...transfer } = request;
    this.#checkFree(transfer.execId);
    return await this.#register({ execId: transfer.execId, stdio: noStdio, streams }, () =>
      this.#options.agent.createFileTransfer({ containerId: this.id, ...transfer }),
    );
  }

  /** Makes the process here and, by `create`, in the guest. */
  async #register(
    own: Pick<GuestProcess, "execId" | "stdio" | "streams">,
    create: () => Promise<void>,
  ): Promise<GuestProcess> {
    const { agent, drainTimeoutMs, hostPid, killVm } = this.#options;
    const process = new GuestProcess({
      containerId: this.id,
      execId: own.execId,
      stdio: own.stdio,
      streams: own.streams,
      agent,
      drainTimeoutMs,
      hostPid,
      killVm,
    });
    // Before the first wait, so that a second request with this id is refused.
    this.#execs.set(own.execId, process);
    try {
      await this.#forgetting.get(own.execId);
      await create();
      return process;
    } catch (error) {
      this.#execs.delete(own.execId);
      throw error;
    }
  }

  pause(): Promise<void> {
    return this.#changes.run(async () => {
      this.#needState("running", "pause");
      this.#followFreezer("pausing");
      try {
        await this.#options.agent.pauseContainer(this.id);
      } catch (error) {
        this.#followFreezer("running");
        throw error;
      }
      this.#followFreezer("paused");
      this.#options.emit({ type: "paused", container: this });
    });
  }

  resume(): Promise<void> {
    return this.#changes.run(async () => {
      this.#needState("paused", "resume");
      await this.#options.agent.resumeContainer(this.id);
      this.#followFreezer("running");
      this.#options.emit({ type: "resumed", container: this });
    });
  }

  update(linuxResourcesJson: Uint8Array): Promise<void> {
    return this.#changes.run(async () => {
      if (this.init.isFinishing) throw this.#wrongState("update");
      const { agent, growth } = this.#options;
      const { limits, resourcesJson } = planUpdate(linuxResourcesJson, this.id);
      const { memory } = await this.stats();
      const cachedBytes = memory.stat.get("file") ?? 0;
      checkMemoryLimit(limits, this.id, {
        vmMiB: growth.size.memoryMiB,
        mostMiB: growth.most.memoryMiB,
        heldBytes: memory.usageBytes - cachedBytes,
      });
      await growth.change(this.id, limits);
      await agent.updateContainer(this.id, resourcesJson);
    });
  }

  async stats(): Promise<ContainerStats> {
    using limit = scope(undefined, statsTimeoutMs, `the statistics of container "${this.id}"`);
    try {
      this.#lastStats = await this.#options.agent.getStats(this.id, limit.signal);
    } catch (error) {
      // A container that has ended, a VM that is gone or hangs: what was seen last is still asked for.
      if (this.#lastStats === undefined) throw error;
      this.#options.log.debug({ error: describe(error) }, "statistics of the guest");
    }
    return this.#lastStats;
  }

  async guestPids(): Promise<readonly GuestPid[]> {
    using limit = scope(undefined, statsTimeoutMs, `the processes of container "${this.id}"`);
    return await this.#options.agent.listProcesses(this.id, limit.signal);
  }

  async showProcesses(): Promise<ShownProcesses> {
    using limit = scope(undefined, processesTimeoutMs, `the processes of container "${this.id}"`);
    return await this.#options.agent.showProcesses(this.id, limit.signal);
  }

  /** The started execs that have not ended. */
  get runningExecs(): readonly Process[] {
    return [...this.#execs.values()].filter(
      ({ state, isFinishing }) => state.tag !== "created" && !isFinishing,
    );
  }

  delete(execId: string): ReturnType<Container["delete"]> {
    return this.#changes.run(() => (execId === "" ? this.#deleteInit() : this.#deleteExec(execId)));
  }

  /** The guest reports the end of a process of this container. Unknown ids are ignored: the guest may say anything. */
  onGuestExit(execId: string, exitCode: number): void {
    if (execId === "") {
      void this.#onInitExit(exitCode, killedExitCode);
      return;
    }
    const process = this.#execs.get(execId);
    if (process !== undefined && process.state.tag !== "created") void this.#finishExec(process, exitCode);
  }

  /** The VM is gone: everything in it has ended. Resolves when the exits are final. */
  async onVmExit(exitCode: number): Promise<void> {
    await this.#onInitExit(exitCode, exitCode);
  }

  /** Init's exit is the last of a container: execs that the guest did not report by now died with it. */
  #onInitExit(exitCode: number, execExitCode: number): Promise<void> {
    this.init.noteEnd();
    this.#initExit ??= (async () => {
      const running = [...this.#execs.values()].filter(
        ({ state }) => state.tag !== "created" && state.tag !== "deleted",
      );
      await Promise.all(running.map((process) => this.#finishExec(process, execExitCode)));
      await this.#endDescriptors();
      const exit = await this.init.finish(exitCode);
      this.#options.emit({ type: "exit", container: this, process: this.init, exit });
    })().catch((error: unknown) => {
      this.#options.log.error({ error: describe(error) }, "cannot finish the exit of a container");
    });
    return this.#initExit;
  }

  /** As with its output, what init has written is out before its exit is known, unless nobody reads it. */
  async #endDescriptors(): Promise<void> {
    const { descriptors, drainTimeoutMs } = this.#options;
    if (descriptors === undefined) return;
    await within(descriptors.drain(), drainTimeoutMs, undefined);
    descriptors[Symbol.dispose]();
  }

  async #finishExec(process: GuestProcess, exitCode: number): Promise<void> {
    if (process.isFinishing) {
      await process.wait();
      return;
    }
    const exit = await process.finish(exitCode);
    this.#options.emit({ type: "exit", container: this, process, exit });
  }

  async #connectExec(process: GuestProcess): Promise<void> {
    using limit = scope(undefined, this.#options.drainTimeoutMs, `the stdio of process "${process.execId}"`);
    const { log, observer } = this.#options;
    const io = await ProcessIo.open(process, log, limit.signal, observer);
    process.attachIo(io);
    await io.connect(process.dialled ?? this.#options.openStream(process.execId), limit.signal);
  }

  async #deleteExec(execId: string): ReturnType<Container["delete"]> {
    const process = this.#process(execId);
    const exit = await process.markDeleted();
    this.#execs.delete(execId);
    const forgetting = this.#forgetInGuest(execId).finally(() => {
      if (this.#forgetting.get(execId) === forgetting) this.#forgetting.delete(execId);
    });
    this.#forgetting.set(execId, forgetting);
    return { exit, pid: process.pid };
  }

  /** Never rejects. */
  async #forgetInGuest(execId: string): Promise<void> {
    using limit = scope(undefined, forgetTimeoutMs, "the delete of an exec in the guest");
    await this.#options.agent
      .deleteProcess({ containerId: this.id, execId }, limit.signal)
      .catch((error: unknown) => {
        // The guest is gone or has forgotten it already; here it is deleted either way.
        this.#options.log.debug({ error: describe(error) }, "delete of an exec in the guest");
      });
  }

  /** Can be repeated after a failure of the release; what was done by then is not done again. */
  async #deleteInit(): ReturnType<Container["delete"]> {
    if (this.#isReleased)
      throw new RuntimeError("not_found", `Cannot delete container "${this.id}": it is gone`);
    if (this.init.state.tag === "created") await this.#abandon();
    const exit = await this.init.markDeleted();
    for (const process of this.#execs.values()) process.closeIo();
    await this.#options.release();
    this.#isReleased = true;
    await this.#tolerate("poststop", this.#options.hooks.afterDelete());
    this.#options.emit({ type: "delete", container: this, exit });
    return { exit, pid: this.init.pid };
  }

  /** The specification has failures of these hooks logged, and the container go on. */
  async #tolerate(stage: string, hooks: Promise<void>): Promise<void> {
    await hooks.catch((error: unknown) => {
      this.#options.log.warn({ error: describe(error) }, `${stage} hook`);
    });
  }

  /** Kills an init that was never started and waits for its end. */
  async #abandon(): Promise<void> {
    await this.init.kill(9, true).catch((error: unknown) => {
      if (codeOf(error) !== "not_found") throw asError(error);
    });
    const ended = await within(this.init.wait(), abandonTimeoutMs, "late" as const);
    if (ended === "late") this.#options.killVm();
    await this.init.wait();
  }

  #checkFree(execId: string): void {
    if (execId !== this.id && !this.#execs.has(execId)) return;
    throw new RuntimeError(
      "already_exists",
      `Cannot add process "${execId}" to container "${this.id}": the id is in use`,
    );
  }

  #process(execId: string): GuestProcess {
    const process = execId === "" ? this.init : this.#execs.get(execId);
    if (process === undefined) {
      throw new RuntimeError("not_found", `Cannot find process "${execId}" of container "${this.id}"`);
    }
    return process;
  }

  #followFreezer(tag: "pausing" | "paused" | "running"): void {
    for (const process of [this.init, ...this.#execs.values()]) process.followFreezer(tag);
  }

  #needState(tag: "running" | "paused", action: string): void {
    if (this.init.isFinishing || this.init.state.tag !== tag) throw this.#wrongState(action);
  }

  #wrongState(action: string): RuntimeError {
    const tag = this.init.isFinishing ? "stopped" : this.init.state.tag;
    return new RuntimeError("failed_precondition", `Cannot ${action} container "${this.id}": it is ${tag}`);
  }
}
