import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { RuntimeError } from "../base/errors.ts";
import { describeNetwork, type GuestNetwork } from "./endpoint.ts";
import { runIp, scanNetns } from "./ip.ts";
import { closeFd, detachNetwork, type NetworkNic } from "./network.ts";
import { openTap, planTapUp, tapName } from "./tap.ts";
import { redirectLinks } from "./tc.ts";

const joinTimeoutMs = 10_000;

/**
 * A network device that a VM gets while its namespace has no link yet: Docker sets the network up between Create and Start,
 * and a microvm cannot be given a device later.
 */
export interface SpareNic extends AsyncDisposable {
  /** With a MAC address of its own, until the guest takes over that of a link. */
  readonly nic: NetworkNic;
  /** Closes our copy of the tap's descriptor, once the VMM has its own. */
  closeTap(): Promise<void>;
  /**
   * Joins the link that has come to the namespace. The guest is to give its device the link's MAC address.
   *
   * @returns what the guest is told, or undefined when there is still no link
   * @throws unimplemented  more than one link has come
   */
  join(signal: AbortSignal): Promise<GuestNetwork | undefined>;
}

/**
 * Opens the tap of a spare device in a namespace without links. On failure nothing is left.
 *
 * @throws already_exists, not_found, unavailable
 */
export function openSpareNic(netnsPath: string): SpareNic {
  const tap = tapName(0);
  let tapFd: number | undefined = openTap(netnsPath, tap);
  const nic = { id: "net0", macAddress: randomMacAddress(), tapFd };
  const closeTap = async () => {
    const fd = tapFd;
    tapFd = undefined;
    if (fd !== undefined) await closeFd(fd);
  };
  const join = async (signal: AbortSignal) => {
    const limits = { signal, timeoutMs: joinTimeoutMs };
    const guest = describeNetwork(await scanNetns(netnsPath, limits));
    const [link, ...more] = guest.interfaces;
    if (link === undefined) return undefined;
    if (more.length > 0) {
      const names = guest.interfaces.map(({ name }) => name).join(", ");
      throw new RuntimeError(
        "unimplemented",
        `Cannot attach network "${netnsPath}": the links ${names} have come after the VM was made, which has one device for them; set up several before the create`,
      );
    }
    await runIp(netnsPath, planTapUp(tap, link.mtu, { ipv6: existsSync("/proc/sys/net/ipv6") }), limits);
    await redirectLinks(netnsPath, [{ link: link.name, macAddress: link.macAddress, tap }], limits);
    signal.throwIfAborted();
    return guest;
  };
  return {
    nic,
    closeTap,
    join,
    [Symbol.asyncDispose]: async () => {
      await closeTap();
      await detachNetwork({ netnsPath });
    },
  };
}

/** Locally administered, unicast (IEEE 802c). */
function randomMacAddress(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
