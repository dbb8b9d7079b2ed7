import { createHostState } from "./host-state.ts";
import { bootSandboxVm, type SandboxVm, type VmRequest } from "./vm.ts";

/** Where a sandbox has its VM from. */
export interface VmSource {
  /** What the phases of a start count from, on the clock of `performance.now()`. */
  readonly originMs: number;
  /** See `createHostState`. */
  createHost: typeof createHostState;
  /** See `bootSandboxVm`. */
  boot(request: VmRequest): Promise<SandboxVm>;
}

/** Every VM is booted when it is needed. */
export const coldVms: VmSource = { originMs: 0, createHost: createHostState, boot: bootSandboxVm };
