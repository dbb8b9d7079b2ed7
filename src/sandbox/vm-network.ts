import { readFile } from "node:fs/promises";
import type { Agent } from "../agent-client/agent.ts";
import type { GuestNetworkSettings } from "../agent-client/agent-types.ts";
import type { Cleanup } from "../base/cleanup.ts";
import { RuntimeError } from "../base/errors.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import type { GuestNetwork } from "../network/endpoint.ts";
import { createNetns, removeNetns } from "../network/netns.ts";
import { attachNetwork, type NetworkNic } from "../network/network.ts";
import { type NicSlots, openSpareNic, type SpareNic, type SpareNicOptions } from "../network/spare-nic.ts";
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
  readonly spec: Spec;
  readonly paths: SandboxPaths;
  readonly journal: Journal;
  /** Of the guest's one card, where it has it already; the card takes that of a link over then. */
  readonly macAddress?: string | undefined;
}

/** The sandbox's network: the namespace that the spec names, or a fresh one without links. */
export async function makeVmNetwork(
  request: NetworkRequest,
  parts: Cleanup,
  signal: AbortSignal,
): Promise<VmNetwork> {
  const { macAddress } = request;
  const netnsPath = namespacePath(request.spec);
  if (netnsPath === undefined) {
    const { netns } = request.paths;
    request.journal.add({ kind: "netns", path: netns });
    parts.defer("network namespace", () => removeNetns(netns));
    await createNetns(netns, { signal });
    return spareNetwork(netns, parts, { isOurs: true, macAddress });
  }
  const onTaken = () => request.journal.add({ kind: "network", netnsPath });
  const network = await attachNetwork({ netnsPath, signal, onTaken });
  parts.defer("network", () => network[Symbol.asyncDispose]());
  if (network.nics.length === 0) {
    onTaken();
    return spareNetwork(netnsPath, parts, { isOurs: false, macAddress });
  }
  return { netnsPath, ...cardsOf(network, macAddress), closeTaps: () => network.closeTaps() };
}

/** @throws failed_precondition  there are more links than cards */
function cardsOf(
  { nics, guest }: Pick<VmNetwork, "nics" | "guest">,
  macAddress: string | undefined,
): Pick<VmNetwork, "nics" | "guest"> {
  if (macAddress === undefined) return { nics, guest };
  if (nics.length > 1) {
    throw new RuntimeError(
      "failed_precondition",
      `Cannot attach ${nics.length} links of the network namespace: a VM that is restored has one network card; make a sandbox without a template`,
    );
  }
  return { nics: nics.map((nic) => ({ ...nic, macAddress })), guest: overSpare(guest, macAddress) };
}

/**
 * The network namespace that a spec names; undefined: one of the sandbox's own, without links.
 *
 * @throws failed_precondition  the host's
 */
export function namespacePath(spec: Spec): string | undefined {
  const entry = spec.linux?.namespaces?.find(({ type }) => type === "network");
  if (entry === undefined) {
    throw new RuntimeError(
      "failed_precondition",
      "Cannot use the host's network for a sandbox: a VM has a network of its own; run it with a network namespace",
    );
  }
  return entry.path === "" ? undefined : entry.path;
}

/** A namespace without links: the VM gets one device for a link that may come before its start. */
function spareNetwork(netnsPath: string, parts: Cleanup, options: SpareNicOptions): VmNetwork {
  const spare = openSpareNic(netnsPath, options);
  parts.defer("spare network device", () => spare[Symbol.asyncDispose]());
  const guest = { interfaces: [], routes: [], neighbours: [] };
  return { netnsPath, nics: [spare.nic], guest, spare, closeTaps: () => spare.closeTap() };
}

/** How a running VM is given network cards. */
export function nicSlots(vm: Pick<RunningVm, "plug" | "unplug">): NicSlots {
  return { plug: (nic) => vm.plug({ tag: "nic", nic }), unplug: (id) => vm.unplug(id) };
}

/**
 * Joins the first links that come to the namespace; looks at each call until some have come. `vmmPid` is a process in the
 * namespace, which makes looking cheap; undefined: there is none.
 */
export function lateNetwork(spare: SpareNic | undefined, slots: NicSlots, vmmPid: number | undefined) {
  let waiting = spare;
  return async (agent: Agent, signal: AbortSignal) => {
    if (waiting === undefined) return;
    if (vmmPid !== undefined && !hasLink(await readLinks(vmmPid))) return;
    const { nic } = waiting;
    const network = await waiting.join(slots, signal);
    if (network === undefined) return;
    waiting = undefined;
    await agent.configureNetwork(toGuestSettings(overSpare(network, nic.macAddress)), signal);
  };
}

/** The network of links, of which the guest's spare device is the first, and takes its MAC address over. */
export function overSpare(network: GuestNetwork, macAddress: string): GuestNetwork {
  const interfaces = network.interfaces.map((link, index) =>
    index === 0 ? { ...link, macAddress, newMacAddress: link.macAddress } : link,
  );
  return { ...network, interfaces };
}

/** As the agent takes it. */
export function toGuestSettings(network: GuestNetwork): GuestNetworkSettings {
  const interfaces = network.interfaces.map((link) => ({ ...link, addresses: [...link.addresses] }));
  return { ...network, interfaces };
}

/** @throws unavailable  the VM has ended */
async function readLinks(vmmPid: number): Promise<string> {
  try {
    return await readFile(`/proc/${vmmPid}/net/dev`, "latin1");
  } catch (cause) {
    throw new RuntimeError("unavailable", "Cannot look for the sandbox's network: its VM has ended", {
      cause,
    });
  }
}

/** Whether a namespace has another link than its loopback and our tap (proc_pid_net(5), two lines of heading). */
function hasLink(netDev: string): boolean {
  const names = netDev
    .split("\n")
    .slice(2)
    .flatMap((line) => line.split(":", 1)[0]?.trim() || []);
  return names.some((name) => name !== "lo" && !isTapName(name));
}
