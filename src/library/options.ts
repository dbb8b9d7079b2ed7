import type { Readable } from "node:stream";
import type { AcceleratorSetting } from "../config/config.ts";
import type { Template } from "./template.ts";

/** What a sandbox is made of. Exactly one of `image`, `rootfs` and `template` is needed. */
export interface SandboxOptions {
  /**
   * `oci:DIR[:TAG]`, `oci-archive:FILE`, `docker-archive:FILE`, or the name of an image in a registry. Fetched and
   * unpacked once (by skopeo and umoci), then shared by all sandboxes, none of which can change it.
   */
  readonly image?: string;
  /** A directory of this machine that holds a root file system. The sandbox writes into a layer of its own above it. */
  readonly rootfs?: string;
  /**
   * Its VM is restored from the template's, in the place of a boot. Image, storage, size and accelerator are the template's, and there are no
   * `mounts`.
   */
  readonly template?: Template;
  /**
   * How the root file system reaches the VM. `"virtiofs"` (the default): served by the host, the sandbox's own layer on the host's disk.
   * `"erofs"`, for images: a disk that is made once per image and shared by all its sandboxes, the own layer in the VM's
   * memory (up to half of it).
   */
  readonly storage?: "virtiofs" | "erofs";
  /** Memory of the VM in MiB, its kernel included; default: as configured (512). */
  readonly memoryMiB?: number;
  /** CPUs of the VM; default: as configured (1). */
  readonly vcpus?: number;
  /** Bounds for all processes of the sandbox together, within what the VM has. */
  readonly limits?: SandboxLimits;
  /** Environment of every process, on top of the image's. */
  readonly env?: Readonly<Record<string, string>>;
  /** Working directory of every process, absolute; default: the image's, else "/". */
  readonly cwd?: string;
  /** `USER[:GROUP]`, names or numbers, that processes run as and that own the files that are put in; default: the image's, else root. */
  readonly user?: string;
  /** Directories and files of this machine that the sandbox sees. */
  readonly mounts?: readonly SandboxMount[];
  /**
   * `"none"` (the default): no network but loopback. `{ namespacePath }`: the links of a network namespace of this
   * machine, which stays the caller's.
   */
  readonly network?: "none" | { readonly namespacePath: string };
  /** `kvm`, `tcg` (software emulation: no security boundary) or `auto`; default: as configured (`kvm`). */
  readonly accelerator?: AcceleratorSetting;
  /** After this many milliseconds, counted from the call of `create`, the sandbox is closed whatever it does. Default: no limit. */
  readonly timeoutMs?: number;
  /** Closes the sandbox when it aborts, or ends its creation. */
  readonly signal?: AbortSignal;
  /** Takes the log of the sandbox. Without it warnings and errors become warnings of the process (`process.emitWarning`). */
  readonly onLog?: (entry: LogEntry) => void;
}

/** What a template is made of. What has no words here means what it means for `Sandbox.create`. */
export interface TemplateOptions
  extends Pick<SandboxOptions, "memoryMiB" | "vcpus" | "accelerator" | "onLog"> {
  readonly image: string;
  /** After this many milliseconds its creation fails. Default: an hour. */
  readonly timeoutMs?: number;
  /** Ends its creation. */
  readonly signal?: AbortSignal;
}

export interface SandboxLimits {
  /** Above it processes are killed. At least 4; with the overhead for the guest's kernel it must fit into the VM. */
  readonly memoryMiB?: number;
  /** CPU time per time, for example 0.5. */
  readonly cpus?: number;
  /** Processes and threads at once. */
  readonly pids?: number;
}

export interface SandboxMount {
  /** Path on this machine. */
  readonly source: string;
  /** Absolute path in the sandbox. */
  readonly target: string;
  /** Default: false. The host enforces it. */
  readonly readOnly?: boolean;
}

/** One line of a sandbox's log. */
export interface LogEntry {
  readonly level: "error" | "warn" | "info" | "debug";
  readonly message: string;
  /** What else is known about it. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** How a process is started. */
export interface SpawnOptions {
  /** On top of the sandbox's. */
  readonly env?: Readonly<Record<string, string>>;
  /** Absolute; default: the sandbox's. */
  readonly cwd?: string;
  /** `USER[:GROUP]`; default: the sandbox's. */
  readonly user?: string;
  /** A terminal of this size in characters (`true`: 80 × 24). stdout then has everything, with the terminal's line ends. */
  readonly tty?: boolean | { readonly columns: number; readonly rows: number };
  /** Kills the process with SIGKILL when it aborts. */
  readonly signal?: AbortSignal;
  /** Kills the process with SIGKILL after this many milliseconds. */
  readonly timeoutMs?: number;
}

export interface RunOptions extends SpawnOptions {
  /** What the process reads; default: nothing. A string is sent as UTF-8. */
  readonly stdin?: string | Uint8Array | Readable;
  /** Bytes of stdout and of stderr, each, that are kept; a process that writes more is killed. Default: 10 MiB. */
  readonly maxOutputBytes?: number;
}

/** How a process ended. */
export interface ProcessExit {
  /** 0 to 255; 128 + n when signal n has ended it. */
  readonly exitCode: number;
}

export interface RunResult extends ProcessExit {
  /** Decoded as UTF-8. */
  readonly stdout: string;
  readonly stderr: string;
}

export interface WriteFileOptions extends CopyInOptions {
  /** Permissions of a file that is made; default: 0o644. */
  readonly mode?: number;
}

export interface ReadFileOptions {
  /** Larger files are refused. Default: 64 MiB. */
  readonly maxBytes?: number;
  readonly signal?: AbortSignal;
}

export interface CopyInOptions {
  /** `USER[:GROUP]` that owns what is made; default: the sandbox's. */
  readonly user?: string;
  readonly signal?: AbortSignal;
}

export interface CopyOutOptions {
  /** Bytes of all files together; what the sandbox holds is not to fill this machine. Default: 1 GiB. */
  readonly maxBytes?: number;
  /** Files, directories and links together. Default: 100 000. */
  readonly maxEntries?: number;
  /**
   * Symbolic links that lead out of the copied directory, or could: a program that follows one would read or write another
   * file of this machine. `"refuse"` (the default) fails, `"skip"` leaves them out.
   */
  readonly unsafeLinks?: "refuse" | "skip";
  readonly signal?: AbortSignal;
}
