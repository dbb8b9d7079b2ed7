import { close, existsSync } from "node:fs";
import { promisify } from "node:util";
import { Cleanup } from "../base/cleanup.ts";
import { RuntimeError } from "../base/errors.ts";
import { describeNetwork, type GuestNetwork } from "./endpoint.ts";
import { listLinks, runIp, scanNetns } from "./ip.ts";
import { isNetns, isOwnNetns } from "./netns.ts";
import { isTapName, openTap, planTapRemoval, planTapUp, tapName } from "./tap.ts";
import { redirectLinks, restoreLinks } from "./tc.ts";

// None of the commands waits for anything but the kernel's routing lock, which a busy host can hold for seconds.
const attachCommandTimeoutMs = 10_000;
const detachCommandTimeoutMs = 5_000;

// Not closeSync: with its last descriptor a tap goes away, for which the kernel takes 15 to 30 ms.
export const closeFd = promisify(close);

/** A network device that the VM shall have. */
export interface NetworkNic {
  readonly id: string;
  readonly macAddress: string;
  /** A tap, open; the `SandboxNetwork` closes it. */
  readonly tapFd: number;
}

/** A namespace's links, joined to taps. Disposing undoes it: the links stay, as they were. */
export interface SandboxNetwork extends AsyncDisposable {
  /** In the order of `guest.interfaces`; empty for a VM without network. */
  readonly nics: readonly NetworkNic[];
  readonly guest: GuestNetwork;
  /**
   * Closes our copies of the taps' descriptors: to be called as soon as the VMM has its own, so that the taps end with it.
   * Safe to call twice.
   */
  closeTaps(): Promise<void>;
}

/**
 * Gives every link of a network namespace a tap and redirects frames both ways, so that a VM can stand in the
 * namespace's place: it takes over MAC and IP addresses. On failure nothing is left.
 *
 * What is made can be found and removed with the path alone (`detachNetwork`), by whom it belongs to: `onTaken` is told
 * once the namespace is ours, before anything is made that outlives this process, to journal it.
 *
 * @throws not_found           no namespace at the path
 * @throws failed_precondition  it is the host's own network
 * @throws already_exists      another sandbox works in it
 * @throws unavailable         the native addon is missing
 */
export async function attachNetwork(options: {
  netnsPath: string;
  signal: AbortSignal;
  onTaken?: () => void;
}): Promise<SandboxNetwork> {
  const { netnsPath, signal, onTaken = () => {} } = options;
  await checkNetns(netnsPath);
  const limits = { signal, timeoutMs: attachCommandTimeoutMs };
  const guest = describeNetwork(await scanNetns(netnsPath, limits));
  await using cleanup = new Cleanup();
  const tapFds: number[] = [];
  const closeTaps = async () => {
    await Promise.all(tapFds.splice(0).map((tapFd) => closeFd(tapFd)));
  };
  cleanup.defer("taps", closeTaps);

  const nics = guest.interfaces.map(({ macAddress }, index) => {
    const tapFd = openTap(netnsPath, tapName(index), { stays: false });
    tapFds.push(tapFd);
    return { id: `net${index}`, macAddress, tapFd };
  });
  if (nics.length > 0) {
    // Not before the taps are ours: until then, what is there could belong to another sandbox.
    onTaken();
    cleanup.defer("links", () => detachNetwork({ netnsPath }));
    const ipv6 = existsSync("/proc/sys/net/ipv6");
    const taps = guest.interfaces.flatMap(({ mtu }, index) => planTapUp(tapName(index), mtu, { ipv6 }));
    await runIp(netnsPath, taps, limits);
    await redirectLinks(netnsPath, planRedirects(guest), limits);
    signal.throwIfAborted();
  }
  const owned = cleanup.move();
  return { nics, guest, closeTaps, [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose]() };
}

/** Each link with its tap. */
export function planRedirects({ interfaces }: GuestNetwork) {
  return interfaces.map(({ name, macAddress }, index) => ({ link: name, macAddress, tap: tapName(index) }));
}

/**
 * Removes what `attachNetwork` made, found by name; a namespace that is gone is success. For what a crash left, too: VMs
 * in the namespace should be dead, or they lose their network here.
 */
export async function detachNetwork({ netnsPath }: { netnsPath: string }): Promise<void> {
  try {
    await removeOurs(netnsPath);
  } catch {
    // Somebody else removes links at the same time (a VM that dies takes its taps along, CNI takes its links), so that
    // a command can find one gone that was there just before. What still fails the second time, fails.
    await removeOurs(netnsPath);
  }
}

async function removeOurs(netnsPath: string): Promise<void> {
  if (!(await isNetns(netnsPath))) return;
  const limits = { timeoutMs: detachCommandTimeoutMs };
  const links = await listLinks(netnsPath, limits);
  const others = links.filter((name) => name !== "lo" && !isTapName(name));
  await restoreLinks(netnsPath, others, limits);
  const taps = links.filter(isTapName);
  if (taps.length > 0) await runIp(netnsPath, taps.flatMap(planTapRemoval), limits);
}

async function checkNetns(netnsPath: string): Promise<void> {
  if (!(await isNetns(netnsPath))) {
    throw new RuntimeError(
      "not_found",
      `Cannot attach network "${netnsPath}": there is no namespace at this path`,
    );
  }
  if (await isOwnNetns(netnsPath)) {
    throw new RuntimeError(
      "failed_precondition",
      `Cannot attach network "${netnsPath}": it is the host's own network (hostNetwork), and a VM that took over its links would cut off the host; use a network namespace of the sandbox's own`,
    );
  }
}
