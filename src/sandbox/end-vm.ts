import { codeOf, describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { scope } from "../base/scope.ts";
import type { SandboxVm } from "./vm.ts";

/** For the guest to write back what it has; then the VM is killed. */
const powerOffTimeoutMs = 2_000;

export interface EndOptions {
  readonly isLost: boolean;
  /** There is nothing in the guest any more that it could write back. */
  readonly isFlushed: boolean;
  readonly log: Log;
}

/** Lets the guest write back what it has, and kills and releases the VM; one that is lost or hung is simply killed. */
export async function endVm(sandboxVm: SandboxVm, { isLost, isFlushed, log }: EndOptions): Promise<void> {
  try {
    if (!isLost && !isFlushed) await powerOff(sandboxVm, log);
  } finally {
    await sandboxVm[Symbol.asyncDispose]();
  }
}

async function powerOff({ agent, vm }: SandboxVm, log: Log): Promise<void> {
  using limit = scope(undefined, powerOffTimeoutMs, "the power-off of the guest");
  // The guest's own way to its end would take longer, and change nothing any more.
  let graceMs = 0;
  await agent.powerOff(limit.signal).catch((error: unknown) => {
    log.debug({ error: describe(error) }, "power-off of the guest");
    // The answer may be lost with the connection; a guest that does not answer at all is not waited for again.
    if (codeOf(error) !== "deadline_exceeded") graceMs = powerOffTimeoutMs;
  });
  await vm.stop({ graceMs });
}
