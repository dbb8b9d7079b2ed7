import { readFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem } from "node:os";
import { join } from "node:path";
import type { Config } from "../../src/config/config.ts";
import { chooseAccelerator, inspectHost } from "../../src/hypervisor/accelerator.ts";
import { findGuestFiles } from "../../src/sandbox/guest-files.ts";
import { run } from "../support/cli-run.ts";

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryMiB: number;
  readonly kernel: string;
  readonly accelerator: "kvm" | "tcg";
  /** Of the VMs. */
  readonly machine: string;
  readonly guestMemoryMiB: number;
  readonly guestVcpus: number;
}

export async function describeMachine(config: Config): Promise<Machine> {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpus().length,
    memoryMiB: Math.floor(totalmem() / 1024 ** 2),
    kernel: release(),
    accelerator: chooseAccelerator(config.accel, await inspectHost()),
    machine: config.machine,
    guestMemoryMiB: config.defaultMemoryMiB,
    guestVcpus: config.defaultVcpus,
  };
}

/** What was measured, by name. */
export type Versions = Readonly<Record<string, string>>;

export async function findVersions(config: Config, root: string, containerd: string): Promise<Versions> {
  const guest = findGuestFiles(config);
  const ask = async (...argv: string[]) => {
    const result = await run(argv).catch(() => undefined);
    const line = `${result?.stdout ?? ""}${result?.stderr ?? ""}`.split("\n")[0]?.trim() ?? "";
    return /\d+\.\d+[\w.+~-]*/.exec(line)?.[0] ?? "unknown";
  };
  const [revision, qemu, virtiofsd, vsockBackend, containerdVersion, runc, caisson] = await Promise.all([
    run(["git", "-C", root, "describe", "--always", "--dirty"]).catch(() => undefined),
    ask(config.qemuPath, "--version"),
    ask(config.virtiofsdPath, "--version"),
    ask(config.vhostDeviceVsockPath, "--version"),
    ask(join(containerd, "containerd"), "--version"),
    ask("runc", "--version"),
    ask(join(root, "build/bin/caisson"), "version"),
  ]);
  return {
    caisson,
    // The lab has no git.
    revision: process.env["CAISSON_BENCH_REVISION"] ?? (revision?.stdout.trim() || "unknown"),
    node: process.version.slice(1),
    qemu,
    virtiofsd,
    "vhost-device-vsock": vsockBackend,
    containerd: containerdVersion,
    runc,
    "guest kernel": `${kernelRelease(guest.kernelPath)} (${guest.kernelName})`,
  };
}

function kernelRelease(kernelPath: string): string {
  try {
    const text = readFileSync(join(kernelPath, "../kernel.json"), "utf8");
    return String((JSON.parse(text) as { release?: unknown }).release);
  } catch {
    // A kernel of the user's own.
    return "unknown";
  }
}

/** Load averages of 1, 5 and 15 minutes. */
export function readLoad(): readonly number[] {
  return loadavg().map((load) => Math.round(load * 100) / 100);
}
