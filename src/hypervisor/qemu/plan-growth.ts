import type { VmConfig } from "../vm-config.ts";
import { option } from "./option.ts";

/** Devices that a VM can be given while it runs: each takes a port of its own on the PCI Express bus. */
export const portCount = 16;
/** The device through which the VM gets more memory. */
export const growingMemoryId = "memory";
/** Linux takes memory in pieces of this size (its largest block of pages); a part of one it leaves. */
export const memoryStepMiB = 4;
/** Places on the bus that QEMU, which counts from the first, gives to none of the devices of a boot. */
const firstPortSlot = 0x18;
const functionsOfSlot = 8;

export function portName(index: number): string {
  return `port${index}`;
}

/** The memory that comes beyond what the VM boots with. */
export function growingMiB({ growth, memoryMiB }: VmConfig): number {
  if (growth === undefined) return 0;
  return Math.floor(Math.max(0, growth.maxMemoryMiB - memoryMiB) / memoryStepMiB) * memoryStepMiB;
}

/** More memory, none of it given yet, and free ports. */
export function growthArgs(config: VmConfig): string[] {
  return config.growth === undefined ? [] : [...growingMemory(config), ...ports()];
}

function growingMemory(config: VmConfig): string[] {
  const size = growingMiB(config);
  if (size === 0) return [];
  const memdev = "more";
  return [
    // Nothing of it is there, nor accounted, before the guest takes it.
    [
      "-object",
      option("memory-backend-memfd", { id: memdev, size: `${size}M`, share: "on", reserve: "off" }),
    ],
    ["-device", option("virtio-mem-pci", { id: growingMemoryId, memdev, "requested-size": 0 })],
  ].flat();
}

function ports(): string[] {
  return Array.from({ length: portCount }, (_, index) => {
    const slot = firstPortSlot + Math.floor(index / functionsOfSlot);
    const properties = {
      id: portName(index),
      chassis: index + 1,
      addr: `${slot.toString(16)}.${index % functionsOfSlot}`,
      multifunction: "on",
      // Virtio devices have no I/O ports, of which a PC has enough for fifteen ports only.
      "io-reserve": 0,
    };
    return ["-device", option("pcie-root-port", properties)];
  }).flat();
}
