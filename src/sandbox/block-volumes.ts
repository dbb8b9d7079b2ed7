import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { GuestDisk } from "../agent-client/agent-types.ts";
import type { BlockDevice } from "../agent-client/guest-devices.ts";
import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { Mutex } from "../base/mutex.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import type { Disk } from "../hypervisor/vm-config.ts";

/** Block devices of the host that a VM boots with, by `<major>:<minor>`. */
export type BootVolumes = ReadonlyMap<string, Disk>;

/**
 * The disks for a VM, from what its first container wants.
 *
 * @throws not_found  the host has no node of a device
 */
export async function findBlockVolumes(devices: readonly BlockDevice[]): Promise<BootVolumes> {
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

interface Volume {
  readonly disk: Disk;
  /** Containers that have it; one that the VM booted with stays without any. */
  readonly holders: Set<string>;
  readonly isPlugged: boolean;
}

/** The block devices of the host that a running VM has as disks. */
export class BlockVolumes {
  readonly #vm: Pick<RunningVm, "plug" | "unplug">;
  readonly #log: Log;
  readonly #volumes: Map<string, Volume>;
  /** A disk is not taken away while the next container gets it. */
  readonly #changes = new Mutex();
  #count: number;

  constructor(vm: Pick<RunningVm, "plug" | "unplug">, boot: BootVolumes, log: Log) {
    this.#vm = vm;
    this.#log = log;
    const volumeOf = (disk: Disk): Volume => ({ disk, holders: new Set(), isPlugged: false });
    this.#volumes = new Map([...boot].map(([key, disk]) => [key, volumeOf(disk)]));
    this.#count = boot.size;
  }

  /**
   * Gives the VM what it lacks of a container's devices. `release` takes it away again, also after a failure of this.
   *
   * @returns                    what the guest is told of them
   * @throws failed_precondition  the machine takes disks only when it boots, or the VM has one read-only
   * @throws not_found            the host has no node of a device
   * @throws resource_exhausted   the VM has no slot left
   */
  hold(devices: readonly BlockDevice[], containerId: string): Promise<GuestDisk[]> {
    if (devices.length === 0) return Promise.resolve([]);
    return this.#changes.run(async () => {
      const disks: GuestDisk[] = [];
      for (const device of devices) disks.push(await this.#hold(device, devices, containerId));
      return disks;
    });
  }

  /** Takes away what no other container has. Never rejects: a guest that lets nothing go is no reason to keep a container. */
  release(containerId: string): Promise<void> {
    return this.#changes.run(async () => {
      for (const [key, { disk, holders, isPlugged }] of this.#volumes) {
        if (!holders.delete(containerId) || holders.size > 0 || !isPlugged) continue;
        this.#volumes.delete(key);
        await this.#vm.unplug(disk.id).catch((error: unknown) => {
          this.#log.warn(
            { error: describe(error), path: disk.path },
            "cannot take a disk from the VM in order",
          );
        });
      }
    });
  }

  async #hold(device: BlockDevice, all: readonly BlockDevice[], containerId: string): Promise<GuestDisk> {
    const key = numberOf(device);
    const { path, readOnly, fileMode, uid, gid } = device;
    const isWritten = all.some((other) => numberOf(other) === key && !other.readOnly);
    const volume =
      this.#volumes.get(key) ?? (await this.#plug(device, { readOnly: !isWritten, containerId }));
    if (volume.disk.readOnly && !readOnly) throw cannotGive(device, containerId, "its VM has it read-only");
    volume.holders.add(containerId);
    return { serial: volume.disk.id, path, readOnly, fileMode, uid, gid };
  }

  async #plug(
    device: BlockDevice,
    { readOnly, containerId }: { readonly readOnly: boolean; readonly containerId: string },
  ): Promise<Volume> {
    const path = await findNode(device);
    // Numbers are not used again: a guest may have kept the disk that had one.
    const disk = { id: `volume-${this.#count++}`, path, readOnly, isBlockDevice: true };
    try {
      await this.#vm.plug({ tag: "disk", disk });
    } catch (error) {
      if (codeOf(error) !== "unimplemented") throw error;
      throw cannotGive(device, containerId, `its VM runs without it; ${describe(error)}`);
    }
    const volume = { disk, holders: new Set<string>(), isPlugged: true };
    this.#volumes.set(numberOf(device), volume);
    return volume;
  }
}

function cannotGive(device: BlockDevice, containerId: string, fact: string): RuntimeError {
  const name = `"${device.path}" (${numberOf(device)})`;
  return new RuntimeError(
    "failed_precondition",
    `Cannot give the block device ${name} to container "${containerId}": ${fact}`,
  );
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
