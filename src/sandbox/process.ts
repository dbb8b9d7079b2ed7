import type { Agent } from "../agent-client/agent.ts";
import { codeOf, RuntimeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { scope, within } from "../base/scope.ts";
import { DialledStreams } from "./dialled-streams.ts";
import type { ConnectDescriptor, HandedDescriptors } from "./handed-descriptors.ts";
import type { OpenGuestStream, ProcessIo } from "./io.ts";
import type { ExitStatus, Process, ProcessState, Stdio, StdioStreams } from "./model.ts";
import { transition } from "./process-state.ts";

const sigkill = 9;
/** A guest that does not take a SIGKILL within this time is hung; then its VM is killed. */
const killTimeoutMs = 4_000;
/** An init that took a SIGKILL and has not ended by then waits in the guest's kernel for what does not come. */
const endTimeoutMs = 5_000;
/** How long an exit waits for the end of a terminal's output, which a child may hold open. */
const terminalLagMs = 1_000;
const dialTimeoutMs = 30_000;

export interface ProcessOptions {
  readonly containerId: string;
  /** Empty for init. */
  readonly execId: string;
  readonly stdio: Stdio;
  readonly streams?: StdioStreams | undefined;
  readonly agent: Agent;
  readonly drainTimeoutMs: number;
  /** The VMM's process id. */
  readonly hostPid: number;
  /** Ends the VM when the guest does not answer a SIGKILL. */
  readonly killVm: () => void;
}

/** A process in the guest, init or exec. Its container drives it. */
export class GuestProcess implements Process {
  readonly execId: string;
  readonly stdio: Stdio;
  readonly #options: ProcessOptions;
  readonly #exit = Promise.withResolvers<ExitStatus>();
  #state: ProcessState = { tag: "created" };
  #pid: number;
  #io: ProcessIo | undefined;
  #dialled: DialledStreams | undefined;
  #descriptors: HandedDescriptors | undefined;
  #listen = () => {};
  #starting: Promise<unknown> = Promise.resolve();
  #finishing = false;
  /** By what the guest says. */
  #hasEnded = false;
  #overdue: NodeJS.Timeout | undefined;

  constructor(options: ProcessOptions) {
    this.#options = options;
    this.execId = options.execId;
    this.stdio = options.stdio;
    // Init exists from Create on; an exec begins to exist at its start.
    this.#pid = options.execId === "" ? options.hostPid : 0;
  }

  get state(): ProcessState {
    return this.#state;
  }

  get streams(): StdioStreams | undefined {
    return this.#options.streams;
  }

  get pid(): number {
    return this.#pid;
  }

  wait(): Promise<ExitStatus> {
    return this.#exit.promise;
  }

  /** Whether the guest has reported its end, or the VM is gone; its output may still be on the way. */
  get isFinishing(): boolean {
    return this.#finishing;
  }

  /** Connects the guest's ends of its streams, which its start then takes. */
  dial(open: OpenGuestStream): void {
    this.#dialled = new DialledStreams(this.#options, open, dialTimeoutMs);
  }

  /** The streams that were dialled, unless they are closed. */
  get dialled(): OpenGuestStream | undefined {
    return this.#dialled?.take;
  }

  attachIo(io: ProcessIo): void {
    this.#io = io;
  }

  /** Of an exec that is registered in the guest and not started. They are its own from now on. */
  takeDescriptors(descriptors: HandedDescriptors, connect: ConnectDescriptor, log: Log): void {
    this.#descriptors = descriptors;
    this.#listen = () => descriptors.listen(connect, log);
    descriptors.connect(connect, log);
  }

  /**
   * Runs it in the guest. `prepare` (opening the stdio of an exec) and `onStarted` (its start event) are part of the start:
   * an exit that comes in the meantime is held back.
   */
  async start(prepare: () => Promise<void>, onStarted: () => void): Promise<void> {
    if (this.#state.tag !== "created" || this.#finishing) throw this.#wrongState("start");
    this.#state = transition(this.#state, { tag: "starting" });
    const settled = Promise.withResolvers<void>();
    this.#starting = settled.promise;
    try {
      await prepare();
      await this.#io?.connected;
      await this.#options.agent.startProcess(this.#address);
      this.#state = transition(this.#state, { tag: "running" });
      this.#pid = this.#options.hostPid;
      this.#listen();
      onStarted();
    } catch (error) {
      if (this.#state.tag === "starting") this.#state = transition(this.#state, { tag: "created" });
      // The streams of an exec are opened by its start; those of init by its create.
      if (this.execId !== "") this.closeIo();
      throw error;
    } finally {
      settled.resolve();
    }
  }

  async resize(columns: number, rows: number): Promise<void> {
    if (!this.stdio.terminal || this.#state.tag === "stopped" || this.#state.tag === "deleted") return;
    await this.#options.agent.resizeTerminal({ ...this.#address, columns, rows });
  }

  closeStdin(): void {
    this.#io?.closeStdin();
  }

  /** Follows its container into "pausing", "paused" or back to "running"; does nothing in any other state. */
  followFreezer(tag: "pausing" | "paused" | "running"): void {
    const from = this.#state.tag;
    if (from !== "running" && from !== "pausing" && from !== "paused") return;
    if (from !== tag) this.#state = transition(this.#state, { tag });
  }

  async kill(signal: number, all: boolean): Promise<void> {
    const { tag } = this.#state;
    if (tag === "stopped" || tag === "deleted" || this.#finishing) {
      throw new RuntimeError("not_found", `Cannot signal ${this.#name}: the process has exited`);
    }
    if (tag === "created" && this.execId !== "") throw this.#wrongState("signal");
    if (signal !== sigkill) {
      await this.#options.agent.signalProcess({ ...this.#address, signal, all });
      return;
    }
    using limit = scope(undefined, killTimeoutMs, `the SIGKILL of ${this.#name}`);
    try {
      await this.#options.agent.signalProcess({ ...this.#address, signal, all }, limit.signal);
      this.#expectEnd();
    } catch (error) {
      const code = codeOf(error);
      if (code !== "deadline_exceeded" && code !== "unavailable") throw error;
      this.#options.killVm();
    }
  }

  /** The guest reported its end, which others of its container hold up: a SIGKILL had its effect. */
  noteEnd(): void {
    this.#hasEnded = true;
    clearTimeout(this.#overdue);
  }

  /** The guest reported its end. Resolves when the exit is final: started, drained, state changed. */
  async finish(exitCode: number): Promise<ExitStatus> {
    if (this.#finishing) return this.#exit.promise;
    this.#finishing = true;
    this.noteEnd();
    const exit: ExitStatus = { exitCode, exitedAt: new Date() };
    await this.#starting;
    this.#io?.endStdin();
    await this.#drained();
    if (this.#descriptors !== undefined)
      await within(this.#descriptors.drain(), this.#options.drainTimeoutMs, undefined);
    this.#closeDescriptors();
    this.#state = transition(this.#state, { tag: "stopped", exit });
    this.#exit.resolve(exit);
    return exit;
  }

  /** Forgets it, with whatever output is left; a second time it only says how it ended. @throws failed_precondition while it runs */
  async markDeleted(): Promise<ExitStatus> {
    const state = this.#state;
    if (state.tag === "deleted") return state.exit;
    if (state.tag !== "stopped" && state.tag !== "created") throw this.#wrongState("delete");
    const exit = state.tag === "stopped" ? state.exit : { exitCode: 0, exitedAt: new Date() };
    this.#state = transition(state, { tag: "deleted", exit });
    // The process's own output is out when `exitSeen` has resolved; what children left behind still write is cut here.
    await this.#drained();
    this.#io?.close();
    this.#dialled?.[Symbol.dispose]();
    this.#closeDescriptors();
    this.#exit.resolve(exit);
    return exit;
  }

  /**
   * Resolves when what the process itself wrote is out. A terminal hands written bytes on a little later (its line
   * discipline runs in the guest kernel's background), so that the mark can come before the last of them; the end of the
   * stream cannot, and it follows at once unless a child holds the terminal.
   */
  async #drained(): Promise<void> {
    if (this.#io === undefined) return;
    await within(this.#io.exitSeen, this.#options.drainTimeoutMs, undefined);
    if (this.stdio.terminal) await within(this.#io.finished, terminalLagMs, undefined);
  }

  /** Closes its streams. */
  closeIo(): void {
    this.#io?.close();
    this.#io = undefined;
    this.#dialled?.[Symbol.dispose]();
    this.#dialled = undefined;
    this.#closeDescriptors();
  }

  #closeDescriptors(): void {
    this.#descriptors?.[Symbol.dispose]();
    this.#descriptors = undefined;
    this.#listen = () => {};
  }

  /** A hung file system keeps even a killed process; an exec's goes with its container, a container's with the VM. */
  #expectEnd(): void {
    if (this.execId !== "" || this.#hasEnded) return;
    this.#overdue ??= setTimeout(() => this.#options.killVm(), endTimeoutMs).unref();
  }

  get #address() {
    return { containerId: this.#options.containerId, execId: this.execId };
  }

  get #name(): string {
    const { containerId, execId } = this.#options;
    return execId === "" ? `container "${containerId}"` : `process "${execId}" of container "${containerId}"`;
  }

  #wrongState(action: string): RuntimeError {
    const tag = this.#finishing ? "stopped" : this.#state.tag;
    return new RuntimeError("failed_precondition", `Cannot ${action} ${this.#name}: it is ${tag}`);
  }
}
