import { RuntimeError } from "../../base/errors.ts";
import { Mutex } from "../../base/mutex.ts";
import { within } from "../../base/scope.ts";
import type { HotplugDevice } from "../hypervisor.ts";
import type { Disk, Nic } from "../vm-config.ts";
import type { DeviceFolder } from "./device-folder.ts";
import type { MonitorEvent } from "./events.ts";
import { diskBody, netBody, pluggedPath } from "./plan.ts";
import { addDisk, addNet, type Api, removeDevice } from "./rest.ts";

/** How long a guest may take to let go of a device. */
const unplugTimeoutMs = 5_000;
/** As many as on QEMU's q35. The bus has 31 places. */
const slotCount = 16;

export interface HotplugParts {
  readonly sandboxId: string;
  readonly folder: DeviceFolder;
  /** Runs requests of the API. */
  readonly call: <T>(work: (api: Api) => Promise<T>) => Promise<T>;
}

interface Plugged {
  /** Its name in Cloud Hypervisor. */
  readonly name: string;
  /** Resolves when the guest has let go of it and Cloud Hypervisor has closed it. */
  readonly gone: Promise<void>;
}

/** Devices that come and go while a Cloud Hypervisor with `Growth` runs. One change at a time. */
export class Hotplug {
  readonly #parts: HotplugParts;
  readonly #changes = new Mutex();
  readonly #plugged = new Map<string, Plugged>();
  /** By the names in Cloud Hypervisor. */
  readonly #gone = new Map<string, () => void>();

  constructor(parts: HotplugParts) {
    this.#parts = parts;
  }

  onEvent({ source, event, id }: MonitorEvent): void {
    if (source === "vm" && event === "device-removed" && id !== undefined) this.#gone.get(id)?.();
  }

  plug(device: HotplugDevice): Promise<void> {
    return this.#changes.run(() =>
      device.tag === "disk" ? this.#plugDisk(device.disk) : this.#plugNic(device.nic),
    );
  }

  unplug(id: string): Promise<void> {
    return this.#changes.run(() => this.#unplug(id));
  }

  async #plugDisk(disk: Disk): Promise<void> {
    const { call, folder } = this.#parts;
    this.#needSlot(disk.id);
    const body = diskBody(disk, pluggedPath(disk));
    await folder.add(disk);
    try {
      await call((api) => addDisk(api, body));
    } finally {
      folder.remove(disk);
    }
    this.#keep(disk.id, body.id);
  }

  async #plugNic(nic: Nic): Promise<void> {
    this.#needSlot(nic.id);
    const body = netBody(nic);
    await this.#parts.call((api) => addNet(api, body, nic.tapFd));
    this.#keep(nic.id, body.id);
  }

  #keep(id: string, name: string): void {
    const { promise: gone, resolve } = Promise.withResolvers<void>();
    this.#plugged.set(id, { name, gone });
    this.#gone.set(name, () => {
      this.#gone.delete(name);
      this.#plugged.delete(id);
      resolve();
    });
  }

  async #unplug(id: string): Promise<void> {
    const plugged = this.#plugged.get(id);
    if (plugged === undefined) throw this.#cannot("unplug", id, "not_found", "the VM has none of this id");
    await this.#parts.call((api) => removeDevice(api, { id: plugged.name }));
    if ((await within(plugged.gone, unplugTimeoutMs, "late" as const)) !== "late") return;
    const fact = `the guest has not let go of it within ${unplugTimeoutMs} ms`;
    throw this.#cannot("unplug", id, "deadline_exceeded", fact);
  }

  #needSlot(id: string): void {
    if (this.#plugged.size < slotCount) return;
    throw this.#cannot("plug", id, "resource_exhausted", `all ${slotCount} slots of the VM are taken`);
  }

  #cannot(
    action: string,
    id: string,
    code: "not_found" | "resource_exhausted" | "deadline_exceeded",
    fact: string,
  ) {
    const { sandboxId } = this.#parts;
    return new RuntimeError(code, `Cannot ${action} device "${id}" of sandbox "${sandboxId}": ${fact}`);
  }
}
