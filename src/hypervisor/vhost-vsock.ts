import { randomInt } from "node:crypto";
import { closeSync } from "node:fs";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import { loadNative } from "../base/native.ts";

/** A context id of a guest, held while `fd` or what inherits it is open. */
export interface VhostVsock extends Disposable {
  readonly cid: number;
  readonly fd: number;
}

/** CIDs below are reserved, and the one above all means any (vsock(7)). */
const minCid = 3;
const endCid = 0xffff_ffff;
/** Among four billion CIDs each attempt fails with the share that is in use. */
const attempts = 32;

/**
 * Takes a CID that no other guest of the host has: the kernel is asked, so that daemons cannot race.
 *
 * @param pick  the CID to try next; default: any
 * @returns undefined where this kernel has no vhost-vsock
 * @throws permission_denied, resource_exhausted
 */
export function openVhostVsock(pick = () => randomInt(minCid, endCid)): VhostVsock | undefined {
  for (let attempt = 1; ; attempt++) {
    const cid = pick();
    try {
      const fd = loadNative().openVhostVsock(cid);
      return { cid, fd, [Symbol.dispose]: () => closeSync(fd) };
    } catch (cause) {
      const errno = errnoOf(cause);
      // ENODEV: the device file is there and the module is not.
      if (errno === "ENOENT" || errno === "ENODEV" || errno === "ENXIO") return undefined;
      if (errno === "EADDRINUSE" && attempt < attempts) continue;
      const code = errno === "EADDRINUSE" ? "resource_exhausted" : systemErrorCode(cause);
      throw new RuntimeError(code, "Cannot open the kernel's vhost-vsock", { cause });
    }
  }
}
