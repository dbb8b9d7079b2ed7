import { ignoreCode, RuntimeError } from "../base/errors.ts";
import { caisson } from "../gen/bootstrap.js";
import { type Int64, toBigInt } from "../gen/int64.ts";
import type { ExitStatus, Mount, ShownProcesses, Stdio } from "../sandbox/model.ts";
import { shimMethods, shimServiceName } from "../shim/shim-api.ts";
import { taskMethods, taskServiceNames } from "../shim/task-api.ts";
import { TtrpcClient } from "../ttrpc/client.ts";

const { CreateOptions, ExecSpec } = caisson.shim.v1;
const [service] = taskServiceNames;
const processSpecType = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

// A live daemon accepts and answers these from memory; containerd allows 2 s for them too.
const connectTimeoutMs = 2_000;
const stateTimeoutMs = 2_000;
// Killing and deleting go to the guest, each with its own limit in the daemon; ours is only there to never hang.
const controlTimeoutMs = 60_000;
const shutdownTimeoutMs = 5_000;

export type TaskStatus = "created" | "running" | "paused" | "stopped" | "unknown";

export interface CreateTask {
  /** The container gets a notify socket, for `notifications`. */
  readonly notify?: boolean;
  /** Open here: the container's first process gets them from 3 on. They are duplicated. */
  readonly descriptors?: readonly number[];
  /** NAME=VALUE, behind those of the spec. */
  readonly environment?: readonly string[];
  readonly bundle: string;
  readonly rootfs: readonly Mount[];
  readonly stdio: Stdio;
}

/**
 * The task API of one container's daemon. `execId` is empty for the container's first process. Each call fails with `unavailable`
 * when the daemon has died, and with `not_found` for a process that is not there.
 */
export class TaskClient implements AsyncDisposable {
  readonly #client: TtrpcClient;
  readonly #containerId: string;

  private constructor(client: TtrpcClient, containerId: string) {
    this.#client = client;
    this.#containerId = containerId;
  }

  /** Connects to the address that the shim's `start` printed. @throws unavailable, deadline_exceeded */
  static async connect(address: string, containerId: string): Promise<TaskClient> {
    const path = /^unix:\/\/(\/.+)$/.exec(address)?.[1];
    if (path === undefined) {
      throw new RuntimeError(
        "internal",
        `Cannot connect to the shim of "${containerId}": its address is ${JSON.stringify(address.slice(0, 200))}, expected unix:///…`,
      );
    }
    return new TaskClient(await TtrpcClient.connect(path, { timeoutMs: connectTimeoutMs }), containerId);
  }

  /** Boots the microVM and sets the container up. No limit of ours: booting has one in the configuration. */
  async create(task: CreateTask, options: { signal: AbortSignal }): Promise<void> {
    const { terminal, stdin, stdout, stderr } = task.stdio;
    const rootfs = task.rootfs.map((mount) => ({ ...mount, options: [...mount.options] }));
    const request = { id: this.#containerId, bundle: task.bundle, rootfs, terminal, stdin, stdout, stderr };
    const whole = { ...request, ...ownOptions(task) };
    await this.#client.call(service, taskMethods.create, whole, options);
  }

  /** What the container has said at its notify socket since the last call; waits. @throws unavailable  it has ended */
  async notifications(): Promise<readonly string[]> {
    const request = { containerId: this.#containerId };
    const { texts } = await this.#client.call(shimServiceName, shimMethods.notifications, request);
    return texts ?? [];
  }

  /** Registers a process; `spec` is an OCI `Process`. */
  async exec(
    execId: string,
    process: object,
    stdio: Stdio,
    descriptors: readonly number[] = [],
  ): Promise<void> {
    const request = { ...this.#process(execId), ...stdio, spec: execSpec(process, descriptors) };
    await this.#client.call(service, taskMethods.exec, request, { timeoutMs: controlTimeoutMs });
  }

  /**
   * Runs a process that was created.
   *
   * @throws failed_precondition  it was started before
   * @throws invalid_argument, not_found, permission_denied  its program cannot be executed
   */
  async start(execId: string): Promise<void> {
    await this.#client.call(service, taskMethods.start, this.#process(execId));
  }

  /** "unknown" for a state that this version does not know. */
  async status(execId: string): Promise<TaskStatus> {
    return (await this.state(execId)).status;
  }

  /** With the process id that stands for it on the host; 0 when it has none. */
  async state(execId: string): Promise<{ readonly status: TaskStatus; readonly pid: number }> {
    const options = { timeoutMs: stateTimeoutMs };
    const { status, pid } = await this.#client.call(
      service,
      taskMethods.state,
      this.#process(execId),
      options,
    );
    const names = ["unknown", "created", "running", "stopped", "paused", "paused"] as const;
    return { status: names[status] ?? "unknown", pid };
  }

  /** Resolves when the process has ended and its output was written out. @throws unavailable (the daemon died) */
  async wait(execId: string): Promise<ExitStatus> {
    const { exitStatus, exitedAt } = await this.#client.call(
      service,
      taskMethods.wait,
      this.#process(execId),
    );
    return { exitCode: exitStatus & 0xff, exitedAt: toDate(exitedAt) };
  }

  /** Sends a signal by its Linux number; with `all` to every process of the container. @throws not_found  it has exited */
  async kill(execId: string, signal: number, options: { all?: boolean } = {}): Promise<void> {
    const request = { ...this.#process(execId), signal, all: options.all ?? false };
    await this.#client.call(service, taskMethods.kill, request, { timeoutMs: controlTimeoutMs });
  }

  /**
   * Ties the process to this connection: when we end before it does, the daemon kills it. Resolves when it has ended.
   * `standInPid`: the process of the host that callers know the container by, 0 for none. `commandAtLoss`: what the daemon runs
   * after it has killed the process; empty: nothing.
   *
   * @throws unavailable  the daemon died
   */
  async hold(execId: string, standInPid: number, commandAtLoss: readonly string[] = []): Promise<void> {
    const request = {
      containerId: this.#containerId,
      execId,
      standInPid,
      commandAtLoss: [...commandAtLoss],
    };
    await this.#client.call(shimServiceName, shimMethods.hold, request);
  }

  /** The container's processes in the guest, as its own /proc would show them. */
  async showProcesses(): Promise<ShownProcesses> {
    const { processes, bootTimeUnixSeconds } = await this.#client.call(
      shimServiceName,
      shimMethods.showProcesses,
      { containerId: this.#containerId },
      { timeoutMs: controlTimeoutMs },
    );
    return {
      processes: processes.map(({ pid, stat, status, commandLine }) => ({
        pid: pid ?? 0,
        stat: stat ?? "",
        status: status ?? "",
        commandLine: commandLine ?? new Uint8Array(),
      })),
      bootTimeUnixSeconds,
    };
  }

  /** @throws failed_precondition unless it runs */
  async pause(): Promise<void> {
    await this.#client.call(
      service,
      taskMethods.pause,
      { id: this.#containerId },
      { timeoutMs: controlTimeoutMs },
    );
  }

  /** @throws failed_precondition unless it is paused */
  async resume(): Promise<void> {
    await this.#client.call(
      service,
      taskMethods.resume,
      { id: this.#containerId },
      { timeoutMs: controlTimeoutMs },
    );
  }

  /** Sets what `resources` (OCI `LinuxResources`) has. @throws resource_exhausted, failed_precondition */
  async update(resources: object): Promise<void> {
    const value = Buffer.from(JSON.stringify(resources));
    const request = { id: this.#containerId, resources: { type_url: resourcesType, value } };
    await this.#client.call(service, taskMethods.update, request, { timeoutMs: controlTimeoutMs });
  }

  /** The statistics as the daemon sends them: a cgroup message of the host's version. */
  async stats(): Promise<{ readonly type: string; readonly value: Uint8Array }> {
    const { stats } = await this.#client.call(
      service,
      taskMethods.stats,
      { id: this.#containerId },
      { timeoutMs: controlTimeoutMs },
    );
    return { type: stats?.type_url ?? "", value: stats?.value ?? new Uint8Array() };
  }

  /** Sets the size of its terminal in characters. */
  async resize(execId: string, size: { readonly columns: number; readonly rows: number }): Promise<void> {
    const request = { ...this.#process(execId), width: size.columns, height: size.rows };
    await this.#client.call(service, taskMethods.resizePty, request, { timeoutMs: controlTimeoutMs });
  }

  /** Lets end of file reach the process once what was written to its stdin is read. */
  async closeStdin(execId: string): Promise<void> {
    const request = { ...this.#process(execId), stdin: true };
    await this.#client.call(service, taskMethods.closeIo, request, { timeoutMs: controlTimeoutMs });
  }

  /** Forgets a process that has ended; already forgotten is success. */
  async delete(execId: string): Promise<void> {
    const call = this.#client.call(service, taskMethods.delete, this.#process(execId), {
      timeoutMs: controlTimeoutMs,
    });
    await call.catch(ignoreCode("not_found"));
  }

  /** Ends the daemon, which has no task any more; being gone already is success. */
  async shutdown(): Promise<void> {
    const call = this.#client.call(
      service,
      taskMethods.shutdown,
      { id: this.#containerId },
      { timeoutMs: shutdownTimeoutMs },
    );
    await call.catch(ignoreCode("unavailable"));
  }

  /** Closes the connection; the task goes on. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#client[Symbol.asyncDispose]();
  }

  #process(execId: string) {
    return { id: this.#containerId, execId };
  }
}

function ownOptions({ notify = false, descriptors = [], environment = [] }: CreateTask) {
  if (!notify && descriptors.length === 0) return {};
  const value = CreateOptions.encode({
    notify,
    descriptorsPid: process.pid,
    descriptors: [...descriptors],
    environment: [...environment],
  }).finish();
  return { options: { type_url: "caisson.shim.v1.CreateOptions", value } };
}

function execSpec(spec: object, descriptors: readonly number[]) {
  const json = Buffer.from(JSON.stringify(spec));
  if (descriptors.length === 0) return { type_url: processSpecType, value: json };
  const own = { process: json, descriptorsPid: process.pid, descriptors: [...descriptors] };
  return { type_url: "caisson.shim.v1.ExecSpec", value: ExecSpec.encode(own).finish() };
}

interface Timestamp {
  readonly seconds?: Int64 | null;
  readonly nanos?: number | null;
}

function toDate(timestamp: Timestamp | null | undefined): Date {
  if (timestamp === null || timestamp === undefined) return new Date();
  return new Date(Number(toBigInt(timestamp.seconds)) * 1000 + Math.floor((timestamp.nanos ?? 0) / 1e6));
}
