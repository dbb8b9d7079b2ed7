import type { Cleanup } from "../../base/cleanup.ts";
import type { Daemon, DaemonExit } from "../../base/daemon.ts";
import { within } from "../../base/scope.ts";
import type { RunningVm, VmExit } from "../hypervisor.ts";

export interface QemuVmParts {
  readonly qemu: Daemon;
  /** Helpers that the VM cannot live without. */
  readonly helpers: readonly Daemon[];
  readonly consoleTail: () => string;
  /** What the guest did that made QEMU end ("the guest reset"), if it was the guest. */
  readonly shutdownReason: () => string | undefined;
  /** Kills and releases everything. */
  readonly owned: Cleanup;
}

/** Takes over a VM that runs: watches its processes and ends them together. */
export function ownRunningVm(parts: QemuVmParts): RunningVm {
  const { qemu, helpers } = parts;
  const first = firstExit([qemu, ...helpers]);
  const released = first.then(() => parts.owned[Symbol.asyncDispose]());
  // Whoever stops the VM gets the failure; that the VM has ended is not made less true by it.
  released.catch(() => {});
  const exited = describeEnd(parts, first, released);
  const stop = async ({ graceMs }: { graceMs: number }) => {
    const outcome = graceMs > 0 ? await within(exited, graceMs, "late" as const) : "late";
    // The end of QEMU makes `exited` release the rest. SIGKILL also ends a QEMU that was stopped.
    if (outcome === "late") qemu.kill("SIGKILL");
    await exited;
    await released;
  };
  return {
    identity: qemu.identity,
    exited,
    processes: new Map([qemu, ...helpers].map((daemon) => [processName(daemon), daemon.identity])),
    consoleTail: parts.consoleTail,
    stop,
    [Symbol.asyncDispose]: () => stop({ graceMs: 0 }),
  };
}

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
  parts: QemuVmParts,
  first: Promise<FirstExit>,
  released: Promise<void>,
): Promise<VmExit> {
  const { daemon, exit } = await first;
  await released.catch(() => {});
  const words = daemon.lastWords();
  const reason = daemon === parts.qemu ? parts.shutdownReason() : undefined;
  return { reason: reason === undefined ? words : `${words} after ${reason}`, exit };
}
