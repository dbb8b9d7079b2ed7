import { randomBytes } from "node:crypto";
import type { Agent } from "../agent-client/agent.ts";
import type { GuestReport } from "../agent-client/agent-types.ts";
import { guestShareDirectory } from "../agent-client/guest-mounts.ts";
import { guestSysctls } from "../agent-client/guest-sysctls.ts";
import type { GuestNetwork } from "../network/endpoint.ts";
import type { Spec } from "../oci/spec.ts";
import { shareTag } from "../storage/shared-dir.ts";
import type { Timeline } from "./timeline.ts";
import { toGuestSettings } from "./vm-network.ts";

export interface GuestIdentity {
  readonly sandboxId: string;
  /** Of the container that the sandbox is made for: hostname, sysctls. */
  readonly spec: Spec;
  /** There is no share to mount. */
  readonly isWithoutShare?: boolean | undefined;
  /** What every stream has to present. */
  readonly streamToken: Uint8Array;
  readonly network: GuestNetwork;
}

/** Tells the guest who it is, with the clock of now and a random seed that nobody else has. */
export function configureGuest(
  agent: Agent,
  { sandboxId, spec, isWithoutShare, streamToken, network }: GuestIdentity,
  signal: AbortSignal,
): Promise<GuestReport> {
  return agent.configure(
    {
      sandboxId,
      randomSeed: randomBytes(64),
      streamToken,
      // Containers without a name of their own see it; at most 64 characters (sethostname(2)).
      hostname: spec.hostname ?? sandboxId.slice(0, 63),
      sysctls: guestSysctls(spec),
      storages: isWithoutShare
        ? []
        : [{ type: "virtiofs", source: shareTag, target: guestShareDirectory, options: [] }],
      ...toGuestSettings(network),
    },
    signal,
  );
}

/** The guest's clock starts with its kernel; the arrival of the ready line, which we saw, ties it to ours. */
export function addGuestPhases(
  timeline: Timeline,
  report: GuestReport,
  startedMs: number,
  readyMs: number,
): void {
  const ready = report.bootPhases.findIndex(({ name }) => name === "ready");
  const phases = report.bootPhases.slice(0, ready + 1);
  const kernelStartMs = readyMs - (phases.at(-1)?.atMicros ?? 0) / 1000;
  timeline.add("VMM to kernel", startedMs, Math.max(0, kernelStartMs - startedMs));
  let previousMs = kernelStartMs;
  for (const { name, atMicros } of phases) {
    const endMs = Math.min(readyMs, kernelStartMs + atMicros / 1000);
    timeline.add(`guest: ${name}`, previousMs, Math.max(0, endMs - previousMs));
    previousMs = endMs;
  }
}
