import type { Log } from "../base/log.ts";
import type { Config } from "../config/config.ts";
import type { ConfigSource } from "../config/load.ts";
import type { Sandbox, SandboxEvent } from "../sandbox/model.ts";
import type { SandboxObserver } from "../sandbox/observer.ts";
import type { ReadyVm, ReadyVmOptions } from "../sandbox/ready-vm.ts";
import type { VmSource } from "../sandbox/vm-source.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

interface SandboxOptions {
  readonly namespace: string;
  readonly sandboxId: string;
  readonly config: Config;
  readonly log: Log;
  /** Told of every event in its order, synchronously. */
  readonly emit: (event: SandboxEvent) => void;
  readonly observer: SandboxObserver;
  /** When its `start` came in, on the clock of `performance.now()`; 0: with the process. */
  readonly originMs: number;
  /** Where its first VM comes from. Default: it is booted. */
  readonly vms?: VmSource;
}

interface RemoveSandboxOptions {
  readonly stateDirectory: string;
  readonly namespace: string;
  readonly sandboxId: string;
}

/**
 * What the commands of the shim are made of. Each part is loaded when it is needed, because `start` and `delete` are
 * on the path of every container and need few of them.
 */
export interface ShimParts {
  /** `overrides` are the settings of one sandbox, `environment` that of its `start`; default: the process's. */
  loadConfig(overrides?: readonly ConfigSource[], environment?: Environment): Promise<Config>;
  createSandbox(options: SandboxOptions): Promise<Sandbox>;
  /** Boots a VM for a sandbox that is not known yet. On failure nothing is left. */
  bootReadyVm(options: Omit<ReadyVmOptions, "hypervisor" | "program">): Promise<ReadyVm>;
  /** Releases everything that a sandbox without a daemon holds on the host. Idempotent. */
  removeSandbox(options: RemoveSandboxOptions): Promise<void>;
  /** Unmounts everything at or below a directory. */
  unmountAllBelow(directory: string): Promise<void>;
}
