import { errnoOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import { loadNative } from "../base/native.ts";

/** Largest MTU of a tap (tun.c: 65535 minus an Ethernet header); other links go up to 65535. */
export const maxTapMtu = 65_521;

const namePattern = /^tap[0-9]{1,4}_caisson$/;

/** Name of the tap of a sandbox's `index`th link. The namespace has one sandbox, so that its id is not needed in it. */
export function tapName(index: number): string {
  return `tap${index}_caisson`;
}

/** Whether a link is a tap of ours. */
export function isTapName(name: string): boolean {
  return namePattern.test(name);
}

/**
 * Makes a tap in the namespace and returns its file descriptor, which the caller owns. The tap goes away with the last
 * descriptor, so that after a crash nothing has to remove it; or it stays, where the namespace goes itself: then nobody waits for the
 * kernel, which takes 16 ms for it.
 *
 * @throws already_exists     another sandbox works in this namespace
 * @throws not_found, permission_denied, unavailable
 */
export function openTap(netnsPath: string, name: string, { stays }: { stays: boolean }): number {
  const native = loadNative();
  try {
    return native.openTap({ netnsPath, name, stays });
  } catch (cause) {
    const isBusy = errnoOf(cause) === "EBUSY";
    throw new RuntimeError(
      isBusy ? "already_exists" : systemErrorCode(cause),
      isBusy
        ? `Cannot make tap "${name}" in network namespace "${netnsPath}": it is there and in use, by a sandbox that was not deleted`
        : `Cannot make tap "${name}" in network namespace "${netnsPath}"`,
      { cause },
    );
  }
}

/**
 * `ip` commands that make a tap ready. With `ipv6` the host's kernel is kept from giving it a link-local address and
 * from talking to the guest through it.
 */
export function planTapUp(name: string, mtu: number, options: { ipv6: boolean }): string[] {
  return [
    // A command of its own, because `ip` would bring the link up first.
    ...(options.ipv6 ? [`link set dev ${name} addrgenmode none`] : []),
    `link set dev ${name} mtu ${mtu} up`,
  ];
}

/** `ip` commands that remove a tap, also while somebody has it open. */
export function planTapRemoval(name: string): string[] {
  return [`link delete dev ${name}`];
}
