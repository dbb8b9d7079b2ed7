import { chown } from "node:fs/promises";
import type { ReadyListener } from "../agent-client/ready.ts";
import type { GuestAddress } from "../agent-client/vsock.ts";
import type { Cleanup } from "../base/cleanup.ts";
import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import { type Hypervisor, vsockSocketName } from "../hypervisor/hypervisor.ts";
import { openVhostVsock } from "../hypervisor/vhost-vsock.ts";
import type { VsockDevice } from "../hypervisor/vm-config.ts";

/** The way between host and guest, made before the VM boots. */
export interface VmVsock {
  readonly device: VsockDevice;
  readonly guest: GuestAddress;
  readonly ready: ReadyListener;
  /** To be called when the VMM has what it inherits. Safe to call twice. */
  readonly closeDevice: () => void;
}

export interface VsockRequest {
  readonly hypervisor: Pick<Hypervisor, "name" | "vsockTransports">;
  readonly config: Pick<Config, "vsock">;
  /** Short path of the VM's directory. */
  readonly directory: string;
  readonly user: { readonly uid: number; readonly gid: number };
  /** How the agent is waited for. */
  readonly listen: (guest: GuestAddress) => Promise<ReadyListener>;
}

/**
 * Chooses the transport by what the hypervisor and this host have, takes what it needs, and listens for the guest.
 *
 * @throws failed_precondition  the one that is configured is not to be had
 */
export async function makeVmVsock(request: VsockRequest, parts: Cleanup): Promise<VmVsock> {
  const opened = openDevice(request);
  parts.defer("vsock device", opened.close);
  const { device } = opened;
  const { directory, user, listen } = request;
  const guest: GuestAddress =
    device.tag === "vhost-vsock"
      ? { tag: "vsock", cid: device.cid, directory }
      : { tag: "hybrid", path: `${directory}/${vsockSocketName}` };
  const ready = await listen(guest);
  parts.defer("ready listener", () => ready[Symbol.asyncDispose]());
  if (ready.path !== undefined) await chown(ready.path, user.uid, user.gid);
  return { device, guest, ready, closeDevice: opened.close };
}

interface OpenedDevice {
  readonly device: VsockDevice;
  readonly close: () => void;
}

function openDevice({ hypervisor, config }: VsockRequest): OpenedDevice {
  const { vsockTransports } = hypervisor;
  // One that has only its own leaves no choice.
  const isChoice = vsockTransports.length > 1;
  const candidates = vsockTransports.filter(
    (transport) => !isChoice || config.vsock === "auto" || config.vsock === transport,
  );
  for (const transport of candidates) {
    const opened =
      transport === "vhost-vsock" ? openKernelDevice() : { device: { tag: transport }, close: () => {} };
    if (opened !== undefined) return opened;
  }
  throw new RuntimeError(
    "failed_precondition",
    `Cannot use vsock = "${config.vsock}": this kernel has no vhost-vsock; load the module ("modprobe vhost_vsock") or set vsock = "auto"`,
  );
}

function openKernelDevice(): OpenedDevice | undefined {
  const opened = openVhostVsock();
  if (opened === undefined) return undefined;
  const { cid, fd } = opened;
  let isOpen = true;
  const close = () => {
    if (isOpen) opened[Symbol.dispose]();
    isOpen = false;
  };
  return { device: { tag: "vhost-vsock", cid, fd }, close };
}
