import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { Cleanup } from "../base/cleanup.ts";
import { codeOf, RuntimeError } from "../base/errors.ts";
import { exec } from "../base/exec.ts";
import { describeNetwork, type GuestNetwork } from "./endpoint.ts";
import { runIp, scanNetns } from "./ip.ts";
import { closeFd, detachNetwork, type NetworkNic, planRedirects } from "./network.ts";
import { openTap, planTapUp, tapName } from "./tap.ts";
import { redirectLinks } from "./tc.ts";

const joinTimeoutMs = 10_000;
const moveTimeoutMs = 10_000;

/** How a running VM is given network cards, and they are taken from it. Both throw `unimplemented` where it takes none. */
export interface NicSlots {
  plug(nic: NetworkNic): Promise<void>;
  unplug(id: string): Promise<void>;
}

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
   * Joins the links that have come to the namespace. The guest is to give its device the first one's MAC address; for the
   * others the VM is given cards that have theirs.
   *
   * @returns what the guest is told, or undefined when there is still no link
   * @throws unimplemented  more than one link has come, and the VM takes no card while it runs
   */
  join(slots: NicSlots, signal: AbortSignal): Promise<GuestNetwork | undefined>;
  /** The namespace is found at another path from now on. */
  onRename(netnsPath: string): void;
  /**
   * Takes the device to another namespace, where the VMM, which has it open, stays out of.
   *
   * @throws not_found, unavailable  no namespace there, or another sandbox works in it
   */
  moveTo(netnsPath: string, signal: AbortSignal): Promise<void>;
}

export interface SpareNicOptions {
  /** Whether the namespace goes with the VM: then the tap goes with it, unless it has moved. */
  readonly isOurs: boolean;
  /** Default: one of its own. */
  readonly macAddress?: string | undefined;
}

/**
 * Opens the tap of a spare device in a namespace without links. On failure nothing is left.
 *
 * @throws already_exists, not_found, unavailable
 */
export function openSpareNic(
  initialPath: string,
  { isOurs, macAddress = randomMacAddress() }: SpareNicOptions,
): SpareNic {
  const tap = tapName(0);
  let netnsPath = initialPath;
  let tapFd: number | undefined = openTap(netnsPath, tap, { stays: isOurs });
  let isToDetach = false;
  const nic = { id: "net0", macAddress, tapFd };
  const closeTap = async () => {
    const fd = tapFd;
    tapFd = undefined;
    if (fd !== undefined) await closeFd(fd);
  };
  const join = async (slots: NicSlots, signal: AbortSignal) => {
    const limits = { signal, timeoutMs: joinTimeoutMs };
    const guest = describeNetwork(await scanNetns(netnsPath, limits));
    if (guest.interfaces.length === 0) return undefined;
    isToDetach = true;
    await using added = new Cleanup();
    await addNics(netnsPath, guest, slots, added);
    const ipv6 = existsSync("/proc/sys/net/ipv6");
    const taps = guest.interfaces.flatMap(({ mtu }, index) => planTapUp(tapName(index), mtu, { ipv6 }));
    await runIp(netnsPath, taps, limits);
    await redirectLinks(netnsPath, planRedirects(guest), limits);
    signal.throwIfAborted();
    added.move();
    return guest;
  };
  return {
    nic,
    closeTap,
    join,
    onRename: (path) => {
      netnsPath = path;
    },
    moveTo: async (path, signal) => {
      const argv = ["nsenter", `--net=${netnsPath}`, "--", "ip", "link", "set", "dev", tap, "netns", path];
      await exec(argv, { signal, timeoutMs: moveTimeoutMs });
      netnsPath = path;
      isToDetach = true;
    },
    [Symbol.asyncDispose]: async () => {
      await closeTap();
      // Else there is nothing but the tap, which ends with the VMM or the namespace.
      if (isToDetach) await detachNetwork({ netnsPath });
    },
  };
}

/** Gives the VM a card for each link but the first; `added` takes them away again. */
async function addNics(
  netnsPath: string,
  { interfaces }: GuestNetwork,
  slots: NicSlots,
  added: Cleanup,
): Promise<void> {
  for (const [index, { macAddress }] of interfaces.entries()) {
    if (index === 0) continue;
    const id = `net${index}`;
    const tapFd = openTap(netnsPath, tapName(index), { stays: false });
    try {
      await slots.plug({ id, macAddress, tapFd });
      added.defer(`network card ${id}`, () => slots.unplug(id));
    } catch (cause) {
      if (codeOf(cause) !== "unimplemented") throw cause;
      const names = interfaces.map(({ name }) => name).join(", ");
      throw new RuntimeError(
        "unimplemented",
        `Cannot attach network "${netnsPath}": the links ${names} have come after the VM was made, which has one device for them; set up several before the create, or use a machine that takes cards later ("q35")`,
        { cause },
      );
    } finally {
      await closeFd(tapFd);
    }
  }
}

/** Locally administered, unicast (IEEE 802c). */
function randomMacAddress(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
