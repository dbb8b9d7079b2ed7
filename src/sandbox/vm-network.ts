import { readFile } from "node:fs/promises";
import type { Agent } from "../agent-client/agent.ts";
import type { Cleanup } from "../base/cleanup.ts";
import { RuntimeError } from "../base/errors.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import type { GuestNetwork } from "../network/endpoint.ts";
import { createNetns, removeNetns } from "../network/netns.ts";
import { attachNetwork, type NetworkNic } from "../network/network.ts";
import { type NicSlots, openSpareNic, type SpareNic } from "../network/spare-nic.ts";
import { isTapName } from "../network/tap.ts";
import type { Spec } from "../oci/spec.ts";
import type { Journal } from "./journal.ts";
import type { SandboxPaths } from "./paths.ts";

/** The network of a VM, before and after it has booted. */
export interface VmNetwork {
  readonly netnsPath: string;
  readonly nics: readonly NetworkNic[];
  readonly guest: GuestNetwork;
  /** There when the namespace has no link yet. */
  readonly spare?: SpareNic;
  closeTaps(): Promise<void>;
}

export interface NetworkRequest {
  readonly sandboxId: string;
  readonly spec: Spec;
  readonly paths: SandboxPaths;
  readonly journal: Journal;
}

/** The sandbox's network: the namespace that the spec names, or a fresh one without links. */
export async function makeVmNetwork(
  request: NetworkRequest,
  parts: Cleanup,
  signal: AbortSignal,
): Promise<VmNetwork> {
  const entry = request.spec.linux?.namespaces?.find(({ type }) => type === "network");
  if (entry === undefined) {
    throw new RuntimeError(
      "failed_precondition",
      `Cannot use the host's network for sandbox "${request.sandboxId}": a VM has a network of its own; run it with a network namespace`,
    );
  }
  if (entry.path === undefined || entry.path === "") {
    const { netns } = request.paths;
    request.journal.add({ kind: "netns", path: netns });
    parts.defer("network namespace", () => removeNetns(netns));
    await createNetns(netns, { signal });
    return spareNetwork(netns, parts);
  }
  const netnsPath = entry.path;
  const onTaken = () => request.journal.add({ kind: "network", netnsPath });
  const network = await attachNetwork({ netnsPath, signal, onTaken });
  parts.defer("network", () => network[Symbol.asyncDispose]());
  if (network.nics.length === 0) {
    onTaken();
    return spareNetwork(netnsPath, parts);
  }
  return { netnsPath, nics: network.nics, guest: network.guest, closeTaps: () => network.closeTaps() };
}

/** A namespace without links: the VM gets one device for a link that may come before its start. */
function spareNetwork(netnsPath: string, parts: Cleanup): VmNetwork {
  const spare = openSpareNic(netnsPath);
  parts.defer("spare network device", () => spare[Symbol.asyncDispose]());
  const guest = { interfaces: [], routes: [], neighbours: [] };
  return { netnsPath, nics: [spare.nic], guest, spare, closeTaps: () => spare.closeTap() };
}

/** Joins the first links that come to the namespace; looks at each call until some have come. */
export function lateNetwork(
  agent: Agent,
  spare: SpareNic | undefined,
  vm: Pick<RunningVm, "identity" | "plug" | "unplug">,
) {
  let waiting = spare;
  const slots: NicSlots = { plug: (nic) => vm.plug({ tag: "nic", nic }), unplug: (id) => vm.unplug(id) };
  return async (signal: AbortSignal) => {
    if (waiting === undefined || !hasLink(await readFile(`/proc/${vm.identity.pid}/net/dev`, "latin1")))
      return;
    const { nic } = waiting;
    const network = await waiting.join(slots, signal);
    if (network === undefined) return;
    waiting = undefined;
    const interfaces = network.interfaces.map((link, index) => ({
      ...link,
      addresses: [...link.addresses],
      ...(index === 0 && { macAddress: nic.macAddress, newMacAddress: link.macAddress }),
    }));
    await agent.configureNetwork({ ...network, interfaces }, signal);
  };
}

/** Whether a namespace has another link than its loopback and our tap (proc_pid_net(5), two lines of heading). */
function hasLink(netDev: string): boolean {
  const names = netDev
    .split("\n")
    .slice(2)
    .flatMap((line) => line.split(":", 1)[0]?.trim() || []);
  return names.some((name) => name !== "lo" && !isTapName(name));
}
