import { codeOf, describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { scope } from "../base/scope.ts";
import type { SandboxVm } from "./vm.ts";

/** For the guest to sync and power off; then the VM is killed. */
const powerOffTimeoutMs = 2_000;

/** Lets the guest write back what it has, and releases the VM; one that is lost or hung is simply killed. */
export async function endVm(
  sandboxVm: SandboxVm,
  { isLost, log }: { readonly isLost: boolean; readonly log: Log },
): Promise<void> {
  try {
    if (!isLost) await powerOff(sandboxVm, log);
  } finally {
    await sandboxVm[Symbol.asyncDispose]();
  }
}

async function powerOff({ agent, vm }: SandboxVm, log: Log): Promise<void> {
  using limit = scope(undefined, powerOffTimeoutMs, "the power-off of the guest");
  let graceMs = powerOffTimeoutMs;
  await agent.powerOff(limit.signal).catch((error: unknown) => {
    log.debug({ error: describe(error) }, "power-off of the guest");
    // The answer may be lost with the connection; a guest that does not answer at all is not waited for again.
    if (codeOf(error) === "deadline_exceeded") graceMs = 0;
  });
  await vm.stop({ graceMs });
}
