import type { Cleanup } from "../base/cleanup.ts";
import type { Daemon, DaemonExit } from "../base/daemon.ts";
import { RuntimeError } from "../base/errors.ts";
import { within } from "../base/scope.ts";
import type { RunningVm, VmExit } from "./hypervisor.ts";

export interface RunningVmParts {
  readonly vmm: Daemon;
  /** Helpers that the VM cannot live without. */
  readonly helpers: readonly Daemon[];
  readonly consoleTail: () => string;
  /** What the guest did that made the VMM end ("the guest reset"), if it was the guest. */
  readonly shutdownReason: () => string | undefined;
  /** Of a VM that keeps what it boots with: `fixedVm`. */
  readonly changes: Pick<RunningVm, "plug" | "unplug" | "resize">;
  /** Undefined: this hypervisor does not save. */
  readonly save?: RunningVm["save"];
  /** Kills and releases everything. */
  readonly owned: Cleanup;
}

/** Takes over a VM that runs: watches its processes and ends them together. */
export function ownRunningVm(parts: RunningVmParts): RunningVm {
  const { vmm, helpers } = parts;
  let isKilled = false;
  const first = firstExit([vmm, ...helpers]).then(async (end) =>
    // Killed together, they end in any order.
    isKilled ? { daemon: vmm, exit: await vmm.exited } : end,
  );
  const released = first.then(() => parts.owned[Symbol.asyncDispose]());
  // Whoever stops the VM gets the failure; that the VM has ended is not made less true by it.
  released.catch(() => {});
  const exited = describeEnd(parts, first, released);
  const stop = async ({ graceMs }: { graceMs: number }) => {
    const outcome = graceMs > 0 ? await within(exited, graceMs, "late" as const) : "late";
    // The end of the VMM makes `exited` release the rest, which takes the kernel as long again if it begins then. SIGKILL also ends one
    // that was stopped.
    if (outcome === "late") {
      isKilled = true;
      for (const daemon of [vmm, ...helpers]) daemon.kill("SIGKILL");
    }
    await exited;
    await released;
  };
  return {
    identity: vmm.identity,
    exited,
    processes: new Map([vmm, ...helpers].map((daemon) => [processName(daemon), daemon.identity])),
    consoleTail: parts.consoleTail,
    ...parts.changes,
    save: parts.save ?? refuseToSave,
    stop,
    [Symbol.asyncDispose]: () => stop({ graceMs: 0 }),
  };
}

/** For a VM that keeps what it boots with. `reason` says what of it does, and what to use instead. */
export function fixedVm(reason: string): RunningVmParts["changes"] {
  const refuse = (what: string) =>
    Promise.reject(new RuntimeError("unimplemented", `Cannot ${what} a running VM: ${reason}`));
  return {
    plug: () => refuse("give a device to"),
    unplug: () => refuse("take a device from"),
    resize: () => refuse("grow"),
  };
}

const refuseToSave = () =>
  Promise.reject(
    new RuntimeError("unimplemented", "Cannot save a running VM: this hypervisor does not; use QEMU"),
  );

/** The name under which a process is journalled. */
export function processName(daemon: Pick<Daemon, "name">): string {
  return daemon.name.toLowerCase();
}

interface FirstExit {
  readonly daemon: Daemon;
  readonly exit: DaemonExit;
}

function firstExit(daemons: readonly Daemon[]): Promise<FirstExit> {
  return Promise.race(daemons.map(async (daemon) => ({ daemon, exit: await daemon.exited })));
}

async function describeEnd(
  parts: RunningVmParts,
  first: Promise<FirstExit>,
  released: Promise<void>,
): Promise<VmExit> {
  const { daemon, exit } = await first;
  await released.catch(() => {});
  const words = daemon.lastWords();
  const reason = daemon === parts.vmm ? parts.shutdownReason() : undefined;
  return { reason: reason === undefined ? words : `${words} after ${reason}`, exit };
}
