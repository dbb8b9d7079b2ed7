import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { GuestDisk } from "../agent-client/agent-types.ts";
import type { BlockDevice } from "../agent-client/guest-devices.ts";
import { RuntimeError } from "../base/errors.ts";
import type { Disk } from "../hypervisor/vm-config.ts";

/** Block devices of the host that a VM was booted with, by `<major>:<minor>`. */
export type BlockVolumes = ReadonlyMap<string, Disk>;

/**
 * The disks for a VM, from what its first container wants.
 *
 * @throws not_found  the host has no node of a device
 */
export async function findBlockVolumes(devices: readonly BlockDevice[]): Promise<BlockVolumes> {
  const volumes = new Map<string, Disk>();
  for (const device of devices) {
    const key = numberOf(device);
    const known = volumes.get(key);
    const id = known?.id ?? `volume-${volumes.size}`;
    const path = known?.path ?? (await findNode(device));
    const readOnly = device.readOnly && (known?.readOnly ?? true);
    volumes.set(key, { id, path, readOnly, isBlockDevice: true });
  }
  return volumes;
}

/**
 * What the guest is told of a container's block devices.
 *
 * @throws failed_precondition  one that the VM does not have, or cannot write: it takes disks when it boots
 */
export function guestDisks(
  devices: readonly BlockDevice[],
  volumes: BlockVolumes,
  containerId: string,
): GuestDisk[] {
  return devices.map((device) => {
    const { path, readOnly, fileMode, uid, gid } = device;
    const volume = volumes.get(numberOf(device));
    const refuse = (fact: string) =>
      new RuntimeError(
        "failed_precondition",
        `Cannot give the block device "${path}" (${numberOf(device)}) to container "${containerId}": ${fact}; a VM gets its block devices when it boots, from the first container of its sandbox`,
      );
    if (volume === undefined) throw refuse("its VM is running without it");
    if (volume.readOnly && !readOnly) throw refuse("its VM has it read-only");
    return { serial: volume.id, path, readOnly, fileMode, uid, gid };
  });
}

function numberOf({ major, minor }: BlockDevice): string {
  return `${major}:${minor}`;
}

/** The specification names the node in the container; the host's has the name that the kernel gives the device. */
async function findNode(device: BlockDevice): Promise<string> {
  const number = numberOf(device);
  const missing = (cause?: unknown) =>
    new RuntimeError(
      "not_found",
      `Cannot give the block device "${device.path}" to a container: this host has no block device ${number}`,
      { cause },
    );
  const uevent = await readFile(`/sys/dev/block/${number}/uevent`, "utf8").catch((cause: unknown) => {
    throw missing(cause);
  });
  const name = /^DEVNAME=(.+)$/m.exec(uevent)?.[1];
  if (name === undefined) throw missing();
  const path = join("/dev", name);
  const status = await stat(path).catch((cause: unknown) => {
    throw missing(cause);
  });
  // The number in the file's status is as makedev(3) has it.
  if (!status.isBlockDevice() || status.rdev !== deviceNumber(device)) throw missing();
  return path;
}

/** As in <sys/sysmacros.h>; numbers of 12 and 20 bits. */
function deviceNumber({ major, minor }: BlockDevice): number {
  return (major & 0xfff) * 0x100 + (minor & 0xff) + (minor >>> 8) * 0x10_0000;
}
