import { RuntimeError } from "../base/errors.ts";
import type { VmConfig } from "./vm-config.ts";

// QEMU's rule for ids (util/id.c) without its first letter, which our prefix brings. A block node's name has 31 characters.
const idPattern = /^[A-Za-z0-9._-]{1,26}$/;
const macPattern = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const pciAddressPattern = /^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/;
/** A serial number of virtio-blk has 20 bytes (virtio specification 1.2, 5.2.6); a disk's is its id. */
const maxSerialBytes = 20;
/** A virtio-fs tag has 36 bytes (virtio specification 1.2, 5.11.4). */
const maxTagBytes = 36;
/** Our longest relative socket path; sun_path has 108 bytes. */
const maxSocketNameBytes = 100;

/**
 * Refuses what a VMM could not be told, or would fail on with a message that names no field.
 *
 * @throws invalid_argument
 */
export function checkVmConfig(config: VmConfig): void {
  const { sandboxId, vcpus, memoryMiB, kernel, disks, shares, nics } = config;
  const fail = (fact: string) => refuseVmConfig(config, fact);
  const checkIds = (what: string, ids: readonly string[]) => {
    for (const id of ids)
      if (!idPattern.test(id))
        fail(`${what} ${JSON.stringify(id)} is no id of 1 to 26 letters, digits, ".", "_" or "-"`);
    if (new Set(ids).size !== ids.length) fail(`two of its ${what}s have the same id`);
  };
  if (!Number.isInteger(vcpus) || vcpus < 1) fail(`it has ${vcpus} vCPUs, expected an integer from 1`);
  if (!Number.isInteger(memoryMiB) || memoryMiB < 1)
    fail(`it has ${memoryMiB} MiB of memory, expected an integer from 1`);
  checkIds(
    "disk",
    disks.map(({ id }) => id),
  );
  for (const { id } of disks) {
    if (id.length > maxSerialBytes)
      fail(`the disk "${id}" has an id of more than the ${maxSerialBytes} characters of a serial number`);
  }
  checkIds(
    "network card",
    nics.map(({ id }) => id),
  );
  for (const { macAddress } of nics) {
    if (!macPattern.test(macAddress)) fail(`${JSON.stringify(macAddress)} is no MAC address`);
  }
  for (const { tag, socketName } of shares) {
    const tagBytes = Buffer.byteLength(tag);
    if (tagBytes < 1 || tagBytes > maxTagBytes)
      fail(`the tag "${tag}" has ${tagBytes} bytes, expected 1 to ${maxTagBytes}`);
    if (socketName.includes("/") || Buffer.byteLength(socketName) > maxSocketNameBytes) {
      fail(`the socket name ${JSON.stringify(socketName)} is not a short file name`);
    }
  }
  for (const { address } of config.hostDevices ?? []) {
    if (!pciAddressPattern.test(address))
      fail(`${JSON.stringify(address)} is no PCI address ("0000:65:00.0")`);
  }
  const texts = [
    sandboxId,
    kernel.path,
    kernel.initrdPath ?? "",
    kernel.commandLine,
    ...disks.map(({ path }) => path),
  ];
  if ([...texts, ...shares.map(({ tag }) => tag)].some((text) => text.includes("\0")))
    fail("a text holds a NUL character");
}

/** @throws invalid_argument */
export function refuseVmConfig({ sandboxId }: VmConfig, fact: string): never {
  throw new RuntimeError("invalid_argument", `Cannot boot sandbox ${JSON.stringify(sandboxId)}: ${fact}`);
}
