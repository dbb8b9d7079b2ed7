import { Notifications } from "../../src/sandbox/notifications.ts";
/**
 * The model without a VM: containers whose processes do what their arguments say, so that everything above the model
 * can be tried on any machine. Arguments of the OCI process (container and exec alike):
 *
 *     exit CODE [TEXT]     ends with CODE, after writing TEXT to stdout
 *     sleep                runs until it is killed
 *     fail-create, hang-create, slow-create MS   what Create does
 *     fail-start           what Start does
 *     throw                emits an unhandled rejection when started
 *     immortal             runs and does not die
 *     hang-close           runs, and its sandbox does not close
 */
import { constants } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../src/base/errors.ts";
import { abortable } from "../../src/base/scope.ts";
import type {
  BootedSandbox,
  BootRequest,
  Container,
  ContainerStats,
  CreateContainerRequest,
  ExecRequest,
  ExitStatus,
  GuestPid,
  ShownProcesses,
  Mount,
  Process,
  ProcessState,
  Sandbox,
  SandboxEvent,
  Stdio,
} from "../../src/sandbox/model.ts";

type Emit = (event: SandboxEvent) => void;

export function createFakeSandbox(options: { readonly sandboxId: string; readonly emit: Emit }): FakeSandbox {
  return new FakeSandbox(options.sandboxId, options.emit);
}

export class FakeSandbox implements Sandbox {
  readonly standIns = new Set<number>();
  readonly id: string;
  readonly #emit: Emit;
  readonly #containers = new Map<string, FakeContainer>();
  readonly #creating = new Set<string>();
  readonly #ended = Promise.withResolvers<ExitStatus>();
  /** Times that close() was called. */
  closed = 0;

  constructor(id: string, emit: Emit) {
    this.id = id;
    this.#emit = emit;
  }

  get pid(): number {
    return this.#containers.size === 0 ? 0 : process.pid;
  }

  get containers(): readonly Container[] {
    return [...this.#containers.values()];
  }

  container(containerId: string): Container {
    const container = this.#containers.get(containerId);
    if (container === undefined)
      throw new RuntimeError("not_found", `Cannot find container "${containerId}"`);
    return container;
  }

  connect(guestPort: number): Promise<never> {
    return Promise.reject(
      new RuntimeError("unimplemented", `Cannot connect to port ${guestPort}: it has no VM`),
    );
  }

  /** What prepare() was given. */
  prepared: string | undefined;

  prepare({ containerId }: Pick<CreateContainerRequest, "containerId">): void {
    this.prepared = containerId;
  }

  /** What boot() was given. */
  booted: BootRequest | undefined;

  async boot(request: BootRequest): Promise<BootedSandbox> {
    if (request.spec.hostname === "fail-boot") throw new RuntimeError("unavailable", "Cannot boot");
    this.booted = request;
    return { ended: this.#ended.promise };
  }

  async createContainer(
    request: CreateContainerRequest,
    { signal }: { signal: AbortSignal },
  ): Promise<Container> {
    const id = request.containerId;
    if (this.#containers.has(id) || this.#creating.has(id)) {
      throw new RuntimeError("already_exists", `Cannot create container "${id}": it exists`);
    }
    this.#creating.add(id);
    try {
      const args = await readArguments(request.bundle);
      if (args[0] === "fail-create")
        throw new RuntimeError("not_found", `Cannot create "${id}": no such command`);
      if (args[0] === "hang-create") await abortable(new Promise<never>(() => {}), signal);
      if (args[0] === "slow-create") await sleep(Number(args[1]), undefined, { signal });
      const container = new FakeContainer(request, args, this.#emit, () => this.#containers.delete(id));
      this.#containers.set(id, container);
      this.#emit({ type: "create", container });
      return container;
    } finally {
      this.#creating.delete(id);
    }
  }

  async close(): Promise<void> {
    this.closed++;
    this.#ended.resolve({ exitCode: 0, exitedAt: new Date() });
    if ([...this.#containers.values()].some((container) => container.hangsClose)) await new Promise(() => {});
    for (const container of this.#containers.values()) container.killAll(137);
  }
}

class FakeContainer implements Container {
  readonly notifications = new Notifications();
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: readonly Mount[];
  readonly init: FakeProcess;
  readonly hangsClose: boolean;
  readonly #execs = new Map<string, FakeProcess>();
  readonly #emit: Emit;
  readonly #forget: () => void;
  /** What update() was given, as text. */
  readonly updates: string[] = [];

  constructor(request: CreateContainerRequest, args: readonly string[], emit: Emit, forget: () => void) {
    this.id = request.containerId;
    this.bundle = request.bundle;
    this.rootfs = request.rootfs;
    this.#emit = emit;
    this.#forget = forget;
    this.init = this.#makeProcess("", args, request.stdio);
    this.hangsClose = args[0] === "hang-close";
  }

  process(execId: string): FakeProcess {
    const process = execId === "" ? this.init : this.#execs.get(execId);
    if (process === undefined) throw new RuntimeError("not_found", `Cannot find exec "${execId}"`);
    return process;
  }

  async start(execId: string): Promise<void> {
    const process = this.process(execId);
    await process.start(() => {
      this.#emit(
        execId === ""
          ? { type: "start", container: this }
          : { type: "exec-started", container: this, process },
      );
    });
  }
  transferFiles(): Promise<Process> {
    return Promise.reject(new RuntimeError("unimplemented", "Cannot move files: the sandbox is a fake"));
  }

  async exec(request: ExecRequest): Promise<Process> {
    if (this.init.isStopped)
      throw new RuntimeError("failed_precondition", `Cannot exec in "${this.id}": it has ended`);
    if (this.#execs.has(request.execId)) {
      throw new RuntimeError("already_exists", `Cannot register exec "${request.execId}": it exists`);
    }
    const spec = JSON.parse(Buffer.from(request.processJson).toString()) as { args: string[] };
    const process = this.#makeProcess(request.execId, spec.args, request.stdio);
    this.#execs.set(request.execId, process);
    this.#emit({ type: "exec-added", container: this, execId: request.execId });
    return Promise.resolve(process);
  }

  async pause(): Promise<void> {
    await Promise.resolve();
    this.#changeState("running", "paused");
    this.#emit({ type: "paused", container: this });
  }

  async resume(): Promise<void> {
    await Promise.resolve();
    this.#changeState("paused", "running");
    this.#emit({ type: "resumed", container: this });
  }

  update(linuxResourcesJson: Uint8Array): Promise<void> {
    this.updates.push(Buffer.from(linuxResourcesJson).toString());
    return Promise.resolve();
  }

  stats(): Promise<ContainerStats> {
    return Promise.resolve(fakeStats);
  }

  get runningExecs(): readonly Process[] {
    return [...this.#execs.values()].filter(({ state }) => state.tag === "running" || state.tag === "paused");
  }

  showProcesses(): Promise<ShownProcesses> {
    return Promise.resolve({ processes: [], bootTimeUnixSeconds: 0 });
  }

  guestPids(): Promise<readonly GuestPid[]> {
    return Promise.resolve([{ guestPid: 2, execId: "" }]);
  }

  async delete(execId: string): Promise<{ exit: ExitStatus; pid: number }> {
    const process = this.process(execId);
    if (process.state.tag === "running" || process.state.tag === "paused") {
      throw new RuntimeError("failed_precondition", `Cannot delete "${execId || this.id}": it runs`);
    }
    const exit = process.end(execId === "" ? 137 : 0, "silent");
    if (execId === "") {
      this.#forget();
      this.#emit({ type: "delete", container: this, exit });
    } else {
      this.#execs.delete(execId);
    }
    return Promise.resolve({ exit, pid: process.pid });
  }

  killAll(exitCode: number): void {
    for (const process of [...this.#execs.values(), this.init]) {
      if (!process.isStopped) process.end(exitCode);
    }
  }

  #changeState(from: "running" | "paused", to: "running" | "paused"): void {
    if (this.init.state.tag !== from) {
      throw new RuntimeError(
        "failed_precondition",
        `Cannot change "${this.id}": it is ${this.init.state.tag}`,
      );
    }
    for (const process of [this.init, ...this.#execs.values()]) process.follow(from, to);
  }

  #makeProcess(execId: string, args: readonly string[], stdio: Stdio): FakeProcess {
    const process: FakeProcess = new FakeProcess(execId, args, stdio, (exit) => {
      if (execId === "") this.killAll(137);
      this.#emit({ type: "exit", container: this, process, exit });
    });
    return process;
  }
}

class FakeProcess implements Process {
  readonly execId: string;
  readonly stdio: Stdio;
  readonly #args: readonly string[];
  readonly #onExit: (exit: ExitStatus) => void;
  readonly #ended = Promise.withResolvers<ExitStatus>();
  #state: ProcessState = { tag: "created" };
  size: readonly [columns: number, rows: number] | undefined;
  stdinClosed = false;

  constructor(execId: string, args: readonly string[], stdio: Stdio, onExit: (exit: ExitStatus) => void) {
    this.execId = execId;
    this.#args = args;
    this.stdio = stdio;
    this.#onExit = onExit;
  }

  get state(): ProcessState {
    return this.#state;
  }

  get isStopped(): boolean {
    return this.#state.tag === "stopped" || this.#state.tag === "deleted";
  }

  get pid(): number {
    return this.execId !== "" && this.#state.tag === "created" ? 0 : process.pid;
  }

  wait(): Promise<ExitStatus> {
    return this.#ended.promise;
  }

  resize(columns: number, rows: number): Promise<void> {
    this.size = [columns, rows];
    return Promise.resolve();
  }

  closeStdin(): void {
    this.stdinClosed = true;
  }

  async start(onStarted: () => void): Promise<void> {
    if (this.#state.tag !== "created") {
      throw new RuntimeError(
        "failed_precondition",
        `Cannot start "${this.execId}": it is ${this.#state.tag}`,
      );
    }
    const [action, code = "0", text = ""] = this.#args;
    if (action === "fail-start") throw new RuntimeError("not_found", "Cannot start: no such command");
    if (action === "throw") void Promise.reject(new Error("planted rejection"));
    this.#state = { tag: "running" };
    onStarted();
    const output = await openOutput(this.stdio.stdout);
    if (action === "exit") {
      await output?.write(text);
      await output?.close();
      this.end(Number(code));
    } else {
      void this.#ended.promise.then(() => output?.close());
    }
  }

  /** Follows its container when it is in the state that this one leaves. */
  follow(from: "running" | "paused", to: "running" | "paused"): void {
    if (this.#state.tag === from) this.#state = { tag: to };
  }

  kill(signal: number): Promise<void> {
    if (this.isStopped) throw new RuntimeError("not_found", "Cannot kill: it has ended");
    if (this.execId !== "" && this.#state.tag === "created") {
      throw new RuntimeError("failed_precondition", "Cannot kill: it was not started");
    }
    if (this.#args[0] !== "immortal") this.end(128 + signal);
    return Promise.resolve();
  }

  end(exitCode: number, how: "announced" | "silent" = "announced"): ExitStatus {
    if ("exit" in this.#state) return this.#state.exit;
    const exit = { exitCode, exitedAt: new Date() };
    this.#state = { tag: "stopped", exit };
    if (how === "announced") this.#onExit(exit);
    this.#ended.resolve(exit);
    return exit;
  }
}

const fakeStats: ContainerStats = {
  cpu: {
    usageMicros: 3_000_000,
    userMicros: 2_000_000,
    systemMicros: 1_000_000,
    periods: 10,
    throttledPeriods: 2,
    throttledMicros: 500,
  },
  memory: {
    usageBytes: 4_194_304,
    limitBytes: undefined,
    swapUsageBytes: 0,
    swapLimitBytes: undefined,
    peakBytes: 5_242_880,
    stat: new Map([["inactive_file", 4096]]),
    events: new Map([["oom_kill", 1]]),
  },
  pids: { current: 1, limit: undefined },
  io: [],
  network: [],
};

async function readArguments(bundle: string): Promise<readonly string[]> {
  const text = await readFile(join(bundle, "config.json"), "utf8").catch((cause: unknown) => {
    throw new RuntimeError("not_found", `Cannot read config.json of "${bundle}"`, { cause });
  });
  return (JSON.parse(text) as { process: { args: string[] } }).process.args;
}

/** Opens a FIFO that has its reader already, or a file. */
async function openOutput(path: string) {
  if (path === "") return undefined;
  return open(path, constants.O_WRONLY | constants.O_NONBLOCK);
}
