import { describe } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import { cni, containerd, containerdRuntime } from "./containerd.ts";
import { type Check, error, type Finding } from "./finding.ts";
import { guestFiles, hypervisor, virtiofsd } from "./guest.ts";
import { cgroups, disk, limits, permissions } from "./host.ts";
import type { Probe } from "./probe.ts";
import { cpu, kvm, landlock, trafficControl, tun, vsock } from "./virtualization.ts";

const checks: readonly Check[] = [
  permissions,
  cpu,
  kvm,
  vsock,
  tun,
  trafficControl,
  cgroups,
  guestFiles,
  hypervisor,
  landlock,
  virtiofsd,
  containerd,
  containerdRuntime,
  cni,
  limits,
  disk,
];

/** Looks at the host, one thing after the other; `onFinding` is told of each at once. */
export async function examine(
  probe: Probe,
  config: Config,
  onFinding: (finding: Finding) => void = () => {},
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const check of checks) {
    const finding = await check({ probe, config }).catch((cause: unknown) => broken(check, cause));
    findings.push(finding);
    onFinding(finding);
  }
  return findings;
}

function broken(check: Check, cause: unknown): Finding {
  return error(check.name, {
    finding: `this check failed itself: ${describe(cause)}`,
    why: "nothing is known of the thing",
    remedy: "report it",
  });
}

/** Whether sandboxes can run, as far as was looked. */
export function isHealthy(findings: readonly Finding[]): boolean {
  return findings.every(({ status }) => status !== "error");
}
