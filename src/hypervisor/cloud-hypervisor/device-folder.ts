import { closeSync } from "node:fs";
import { stat } from "node:fs/promises";
import { RuntimeError } from "../../base/errors.ts";
import { systemErrorCode } from "../../base/files.ts";
import { loadNative } from "../../base/native.ts";
import type { Disk } from "../vm-config.ts";

/**
 * Nodes of the host's block devices that one VM's Cloud Hypervisor, which inherits the folder, may open, and only as the VM has
 * them. It is mounted nowhere: nobody else sees it, and it ends with the processes that have it.
 */
export interface DeviceFolder extends Disposable {
  readonly fd: number;
  /** Makes a node named by the disk's id. @throws not_found, invalid_argument, … */
  add(disk: Disk): Promise<void>;
  /** Removes it; a VMM that has it open keeps it. */
  remove(disk: Disk): void;
}

export function openDeviceFolder(user: { readonly uid: number; readonly gid: number }): DeviceFolder {
  const native = loadNative();
  const fd = native.openDeviceFolder();
  return {
    fd,
    async add({ id, path, readOnly }) {
      const mode = readOnly ? 0o400 : 0o600;
      native.makeBlockDevice(fd, { name: id, ...(await numberOf(path)), ...user, mode });
    },
    remove: ({ id }) => native.removeBlockDevice(fd, id),
    [Symbol.dispose]: () => closeSync(fd),
  };
}

async function numberOf(path: string): Promise<{ major: number; minor: number }> {
  const status = await stat(path, { bigint: true }).catch((cause: unknown) => {
    throw new RuntimeError(systemErrorCode(cause), `Cannot give "${path}" to the VM`, { cause });
  });
  if (!status.isBlockDevice())
    throw new RuntimeError("invalid_argument", `Cannot give "${path}" to the VM: it is no block device`);
  // As in <sys/sysmacros.h>.
  const { rdev } = status;
  return {
    major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn)),
    minor: Number((rdev & 0xffn) | ((rdev >> 12n) & ~0xffn)),
  };
}
