import type { HandedDescriptors } from "./handed-descriptors.ts";
import type { Notifications } from "./notifications.ts";
import type { Readable, Writable } from "node:stream";
import type { FileTransfer } from "../agent-client/agent-types.ts";

/**
 * The model that every front door (shim, OCI command line, library) works on: a sandbox is one microVM, holds
 * containers, and each container holds processes (its init and its execs).
 *
 * No generated or wire types here; the front doors translate.
 */
import type { Duplex } from "node:stream";

import type { Log } from "../base/log.ts";
import type { Config } from "../config/config.ts";
import type { Hypervisor } from "../hypervisor/hypervisor.ts";
import type { Spec, SpecMount } from "../oci/spec.ts";
import type { SandboxObserver } from "./observer.ts";
import type { VmSource } from "./vm-source.ts";

/** An OCI or containerd mount: where the root file system comes from. */
export interface Mount {
  readonly type: string;
  readonly source: string;
  /** Path below the mount point, empty for the mount point itself. */
  readonly target: string;
  readonly options: readonly string[];
}

/** Where a process's streams go, as the caller gave it; returned verbatim. Empty: no such stream. */
export interface Stdio {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

/**
 * Streams of this program in place of the files and FIFOs of `Stdio`. They are taken over: inputs are read to their end or
 * destroyed, outputs are ended when the process has closed them.
 */
export interface StdioStreams {
  readonly stdin?: Readable;
  readonly stdout?: Writable;
  /** Not with a terminal. */
  readonly stderr?: Writable;
}

export interface CreateContainerRequest {
  readonly containerId: string;
  /** Absolute path of the bundle on the host; holds config.json. */
  readonly bundle: string;
  /** Mounted in order at `<bundle>/rootfs`; empty when `root.path` of the spec is ready already. */
  readonly rootfs: readonly Mount[];
  readonly stdio: Stdio;
  readonly noPivotRoot: boolean;
  /**
   * An EROFS image in place of `rootfs` and the spec's root: a read-only disk of the VM, below a layer in the guest's memory. Only
   * for the container that boots the VM.
   */
  readonly rootImage?: string;
  /** The container gets a socket for sd_notify(3). */
  readonly notify?: boolean;
  /** What its first process gets from descriptor 3 on. Taken over when the container is created; the caller's until then. */
  readonly descriptors?: HandedDescriptors;
  /** NAME=VALUE, behind those of the spec. */
  readonly environment?: readonly string[];
  /** Its init is a program of ours that only waits for its end, whatever `process.args` says. */
  readonly isIdle?: boolean;
}

export interface ExecRequest {
  readonly execId: string;
  readonly stdio: Stdio;
  /** Then `stdio` names no files and only says whether there is a terminal. */
  readonly streams?: StdioStreams;
  /** OCI `Process` as JSON, the bytes as they came. */
  readonly processJson: Uint8Array;
  /** What it gets from descriptor 3 on. Taken over when the exec is registered; the caller's until then. */
  readonly descriptors?: HandedDescriptors;
}

export interface FileTransferRequest extends FileTransfer {
  readonly execId: string;
  /** What it fails with comes to stderr as `<error code> <text>`, from the guest. */
  readonly streams: StdioStreams;
}

export interface ExitStatus {
  /** 0..255; 128 + signal for a signal, 255 when the VM died under the process. */
  readonly exitCode: number;
  /** Stamped by the host. */
  readonly exitedAt: Date;
}

export type ProcessState =
  | { readonly tag: "created" }
  | { readonly tag: "starting" }
  | { readonly tag: "running" }
  | { readonly tag: "pausing" }
  | { readonly tag: "paused" }
  | { readonly tag: "stopped"; readonly exit: ExitStatus }
  | { readonly tag: "deleted"; readonly exit: ExitStatus };

/** A process of a container. `state` and the getters answer from memory; nothing here waits for a hung guest. */
export interface Process {
  /** Empty for init. */
  readonly execId: string;
  readonly stdio: Stdio;
  readonly state: ProcessState;
  /**
   * Host process id that stands for it: the VMM's while the VM lives or lived; 0 for an exec that was never started.
   */
  readonly pid: number;
  /**
   * Resolves when the process has ended and its output has been written out, or when it was deleted unstarted.
   * Never rejects. Any number of callers.
   */
  wait(): Promise<ExitStatus>;
  /** Resolves in the guest; sizes before start are kept. Without a terminal: no effect. */
  resize(columns: number, rows: number): Promise<void>;
  /** Drops our own hold on stdin; end of file reaches the process when every writer has closed. */
  closeStdin(): void;
  /**
   * @throws not_found            the process has exited
   * @throws failed_precondition  an exec that was not started
   */
  kill(signal: number, all: boolean): Promise<void>;
}

/** A process in the guest. */
export interface GuestPid {
  /** In the guest's own numbering; it means nothing on the host. */
  readonly guestPid: number;
  /** The exec that it is, empty for init and for children of either. */
  readonly execId: string;
}

/** The processes of a container for people, as its own /proc would show them: texts that programs can read. */
export interface ShownProcesses {
  readonly processes: readonly {
    /** In the container, as those in the texts. */
    readonly pid: number;
    readonly stat: string;
    readonly status: string;
    /** Words that each end with NUL. */
    readonly commandLine: Uint8Array;
  }[];
  /** To which the start times in `stat` are relative. */
  readonly bootTimeUnixSeconds: number;
}

/** Usage of a container's cgroup (version 2) in the guest. Bytes, microseconds and counts. */
export interface ContainerStats {
  readonly cpu: {
    readonly usageMicros: number;
    readonly userMicros: number;
    readonly systemMicros: number;
    readonly periods: number;
    readonly throttledPeriods: number;
    readonly throttledMicros: number;
  };
  readonly memory: {
    readonly usageBytes: number;
    /** Undefined when unlimited. */
    readonly limitBytes: number | undefined;
    readonly swapUsageBytes: number;
    readonly swapLimitBytes: number | undefined;
    readonly peakBytes: number;
    /** memory.stat and memory.events by the names of their fields. */
    readonly stat: ReadonlyMap<string, number>;
    readonly events: ReadonlyMap<string, number>;
  };
  readonly pids: { readonly current: number; readonly limit: number | undefined };
  readonly io: readonly {
    readonly major: number;
    readonly minor: number;
    readonly readBytes: number;
    readonly writeBytes: number;
    readonly readOperations: number;
    readonly writeOperations: number;
  }[];
  readonly network: readonly {
    readonly name: string;
    readonly rxBytes: number;
    readonly rxPackets: number;
    readonly rxErrors: number;
    readonly rxDropped: number;
    readonly txBytes: number;
    readonly txPackets: number;
    readonly txErrors: number;
    readonly txDropped: number;
  }[];
}

/** One container. Changes are serialised; `kill`, `wait` and the getters are not. */
export interface Container {
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: readonly Mount[];
  readonly init: Process;
  /** What it has said at its notify socket. */
  readonly notifications: Notifications;
  /** Init or exec; @throws not_found */
  process(execId: string): Process;
  /** Starts init (`""`) or an exec. The start event has been emitted when it resolves. */
  start(execId: string): Promise<void>;
  /** Registers an exec. @throws already_exists, failed_precondition (stopped or paused) */
  exec(request: ExecRequest): Promise<Process>;
  /**
   * Registers a process of the guest that reads or writes the container's files, to be started, waited for and deleted as an
   * exec. It works while the container is paused. @throws already_exists, failed_precondition (stopped)
   */
  transferFiles(request: FileTransferRequest): Promise<Process>;
  /**
   * Freezes every process in it. @throws failed_precondition unless it runs
   */
  pause(): Promise<void>;
  /** @throws failed_precondition unless it is paused */
  resume(): Promise<void>;
  /**
   * Changes limits in the guest; only what `linuxResourcesJson` (OCI `LinuxResources`) sets.
   *
   * @throws failed_precondition  the container has ended
   * @throws resource_exhausted   more than the VM has, which cannot grow; or less memory than is in use
   */
  update(linuxResourcesJson: Uint8Array): Promise<void>;
  /** Also after the container has ended, until it is deleted: then what was last seen. */
  stats(): Promise<ContainerStats>;
  /** The started execs that have not ended, from memory. */
  readonly runningExecs: readonly Process[];
  /** The processes in it, from the guest. @throws unavailable, deadline_exceeded */
  guestPids(): Promise<readonly GuestPid[]>;
  /** At most 1024 of them. @throws unavailable, deadline_exceeded */
  showProcesses(): Promise<ShownProcesses>;
  /**
   * Forgets init (and with it the container: stops, unmounts, removes everything of it on the host) or an exec.
   * @throws failed_precondition when it runs
   */
  delete(execId: string): Promise<{ readonly exit: ExitStatus; readonly pid: number }>;
}

export type SandboxEvent =
  | { readonly type: "create"; readonly container: Container }
  | { readonly type: "start"; readonly container: Container }
  | { readonly type: "exec-added"; readonly container: Container; readonly execId: string }
  | { readonly type: "exec-started"; readonly container: Container; readonly process: Process }
  | {
      readonly type: "exit";
      readonly container: Container;
      readonly process: Process;
      readonly exit: ExitStatus;
    }
  | { readonly type: "paused"; readonly container: Container }
  | { readonly type: "resumed"; readonly container: Container }
  | { readonly type: "oom"; readonly container: Container }
  | { readonly type: "delete"; readonly container: Container; readonly exit: ExitStatus };

/** What a VM without a container is made from: an OCI configuration of which size, network, name and annotations count. */
export interface BootRequest {
  readonly spec: Spec;
  /** Bind mounts for every container that has none at their destinations. */
  readonly mounts: readonly SpecMount[];
}

/** A VM that lives until `close`, whatever becomes of its containers. */
export interface BootedSandbox {
  /** Resolves when it has ended: 0 by `close`, 255 when it died. Never rejects. */
  readonly ended: Promise<ExitStatus>;
}

/** One microVM and what belongs to it. */
export interface Sandbox {
  readonly id: string;
  /** Process id of the VMM; 0 before `boot` or the first container has booted it. */
  readonly pid: number;
  /** Further processes of the host that stand for the sandbox: the paths of their namespaces are those of its first container. */
  readonly standIns: Set<number>;
  /** @throws not_found */
  container(containerId: string): Container;
  readonly containers: readonly Container[];
  /**
   * Boots the VM without a container. From then on `close` alone ends it, and after that no container is created any more.
   * On failure nothing is left.
   *
   * @throws failed_precondition  it was booted before; a network that a VM cannot have
   * @throws invalid_argument, not_found, unavailable, deadline_exceeded
   */
  boot(request: BootRequest, options: { signal: AbortSignal }): Promise<BootedSandbox>;
  /**
   * Begins to boot the VM for a container that is going to be asked for, unless there is one already. Only who creates the container
   * learns of a failure, and gets a VM that suits it also when its bundle has changed meanwhile. `close` releases what it makes. Not for
   * sandboxes that `boot` is called for.
   */
  prepare(container: Pick<CreateContainerRequest, "containerId" | "bundle">): void;
  /**
   * Boots the VM with the first container, unless it runs already, then creates the container in it. When it fails nothing is left and the
   * same id works again. The create event has been emitted when it resolves.
   *
   * @throws already_exists, invalid_argument, not_found, unavailable, deadline_exceeded
   */
  createContainer(request: CreateContainerRequest, options: { signal: AbortSignal }): Promise<Container>;
  /**
   * Connects to the port that a workload listens on at 127.0.0.1, else at ::1, of the guest. The caller owns the stream:
   * both directions end on their own (`end()` half-closes), and it is destroyed with an error when the workload resets the
   * connection or the VM ends. At most 512 at a time.
   *
   * @param guestPort  TCP, 1..65535
   * @throws failed_precondition  there is no VM yet, or no more
   * @throws invalid_argument     not a port
   * @throws unavailable          nobody listens there, or the workload does not accept
   */
  connect(guestPort: number, options: { signal: AbortSignal }): Promise<Duplex>;
  /** Powers the VM off and releases everything on the host, in order. Safe to call twice. */
  close(): Promise<void>;
}

export interface SandboxOptions {
  readonly namespace: string;
  readonly sandboxId: string;
  readonly config: Config;
  readonly hypervisor: Hypervisor;
  readonly log: Log;
  /** Told of every event in its order, synchronously. */
  readonly emit: (event: SandboxEvent) => void;
  readonly observer?: SandboxObserver;
  /** Where its first VM comes from. Default: it is booted. */
  readonly vms?: VmSource;
  /** When the process was ready for it, on the clock of `performance.now()`; until then the first part of the start is counted. */
  readonly programMs?: number;
}
