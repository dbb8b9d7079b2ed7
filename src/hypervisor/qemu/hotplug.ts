import { Cleanup } from "../../base/cleanup.ts";
import { RuntimeError } from "../../base/errors.ts";
import { Mutex } from "../../base/mutex.ts";
import { within } from "../../base/scope.ts";
import type { HotplugDevice } from "../hypervisor.ts";
import { openVmFile } from "../open-file.ts";
import type { Disk, Nic } from "../vm-config.ts";
import { portCount, portName } from "./plan-growth.ts";
import type { Qmp, QmpEvent } from "./qmp.ts";
import type { QmpEvents } from "./qmp-events.ts";

/** How long a guest may take to let go of a device. It takes 0.1 s, under software emulation too. */
const unplugTimeoutMs = 5_000;

export interface HotplugParts {
  readonly sandboxId: string;
  readonly qmp: Qmp;
  readonly events: QmpEvents;
}

interface Plugged {
  readonly port: number;
  readonly backend: Backend;
  /** Resolves when the guest has let go of it and QEMU has forgotten it. */
  readonly gone: Promise<void>;
}

/** What is behind a device on the host's side. */
interface Backend {
  /** Takes it from a device that stays. */
  cutOff(): Promise<void>;
  /** Once no device uses it. */
  remove(): Promise<void>;
}

/** Devices that come and go while a QEMU with `Growth` runs. One change at a time. */
export class Hotplug {
  readonly #parts: HotplugParts;
  readonly #changes = new Mutex();
  readonly #plugged = new Map<string, Plugged>();
  readonly #gone = new Map<string, () => void>();
  /** Numbers of sets of descriptors; QEMU's own begin at 3. */
  #lastSet = 1_000;

  constructor(parts: HotplugParts) {
    this.#parts = parts;
    parts.events.listen((event) => this.#onEvent(event));
  }

  plug(device: HotplugDevice): Promise<void> {
    return this.#changes.run(() =>
      device.tag === "disk" ? this.#plugDisk(device.disk) : this.#plugNic(device.nic),
    );
  }

  unplug(id: string): Promise<void> {
    return this.#changes.run(() => this.#unplug(id));
  }

  #onEvent({ name, data }: QmpEvent): void {
    if (name === "DEVICE_DELETED") this.#gone.get(String(data["device"]))?.();
  }

  async #plugDisk({ id, path, readOnly, isBlockDevice }: Disk): Promise<void> {
    const { qmp } = this.#parts;
    const port = this.#freePort(id);
    const node = `disk-${id}`;
    await using undo = new Cleanup();
    {
      await using files = new Cleanup();
      const fd = await openVmFile({ path, access: readOnly ? "read" : "read-write" }, files);
      const set = { "fdset-id": ++this.#lastSet };
      await qmp.execute("add-fd", set, { fd });
      // The block node has a duplicate by then.
      files.defer("descriptor in QEMU", () => qmp.execute("remove-fd", set));
      const filename = `/dev/fdset/${set["fdset-id"]}`;
      const file = { driver: isBlockDevice ? "host_device" : "file", filename };
      await qmp.execute("blockdev-add", { driver: "raw", "node-name": node, "read-only": readOnly, file });
      undo.defer("block node", () => qmp.execute("blockdev-del", { "node-name": node }));
    }
    const backend = diskBackend(qmp, node, readOnly);
    const properties = { drive: node, serial: id, werror: "report", rerror: "report" };
    await this.#addDevice(id, { port, backend }, "virtio-blk-pci", properties);
    undo.move();
  }

  async #plugNic({ id, macAddress, tapFd }: Nic): Promise<void> {
    const { qmp } = this.#parts;
    const port = this.#freePort(id);
    const netdev = `nic-${id}`;
    const remove = async () => void (await qmp.execute("netdev_del", { id: netdev }));
    await using undo = new Cleanup();
    await qmp.execute("getfd", { fdname: netdev }, { fd: tapFd });
    undo.defer("descriptor in QEMU", () => qmp.execute("closefd", { fdname: netdev }));
    // Takes the descriptor over.
    await qmp.execute("netdev_add", { type: "tap", id: netdev, fd: netdev });
    undo.move();
    undo.defer("network backend", remove);
    // A card without its backend has no carrier.
    const backend = { cutOff: remove, remove: () => Promise.resolve() };
    const properties = { netdev, mac: macAddress, romfile: "" };
    await this.#addDevice(id, { port, backend }, "virtio-net-pci", properties);
    undo.move();
  }

  async #addDevice(
    id: string,
    { port, backend }: Pick<Plugged, "port" | "backend">,
    driver: string,
    properties: Readonly<Record<string, string>>,
  ): Promise<void> {
    const place = { id: deviceId(id), bus: portName(port), "disable-legacy": "on" };
    await this.#parts.qmp.execute("device_add", { driver, ...place, ...properties });
    const { promise: gone, resolve } = Promise.withResolvers<void>();
    this.#gone.set(deviceId(id), resolve);
    this.#plugged.set(id, { port, backend, gone });
  }

  async #unplug(id: string): Promise<void> {
    const plugged = this.#plugged.get(id);
    if (plugged === undefined) throw this.#cannot("unplug", id, "not_found", "the VM has none of this id");
    const { gone, backend } = plugged;
    await this.#parts.qmp.execute("device_del", { id: deviceId(id) });
    if ((await within(gone, unplugTimeoutMs, "late" as const)) !== "late")
      return await this.#forget(id, backend);
    await backend.cutOff();
    // Later is not too late for the slot.
    void gone.then(() => this.#changes.run(() => this.#forget(id, backend))).catch(() => {});
    const fact = `the guest has not let go of it within ${unplugTimeoutMs} ms and keeps a device without content`;
    throw this.#cannot("unplug", id, "deadline_exceeded", fact);
  }

  async #forget(id: string, backend: Backend): Promise<void> {
    this.#gone.delete(deviceId(id));
    this.#plugged.delete(id);
    await backend.remove();
  }

  #freePort(id: string): number {
    const taken = new Set([...this.#plugged.values()].map(({ port }) => port));
    const port = Array.from({ length: portCount }, (_, index) => index).find((index) => !taken.has(index));
    if (port !== undefined) return port;
    throw this.#cannot("plug", id, "resource_exhausted", `all ${portCount} slots of the VM are taken`);
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

function deviceId(id: string): string {
  return `device-${id}`;
}

function diskBackend(qmp: Qmp, node: string, readOnly: boolean): Backend {
  const nothing = `none-${node}`;
  let isCutOff = false;
  const removeNode = (name: string) => qmp.execute("blockdev-del", { "node-name": name });
  return {
    /** Puts an empty disk in the place of the host's, which QEMU then closes. */
    async cutOff() {
      await qmp.execute("blockdev-add", { driver: "null-co", "node-name": nothing, size: 0 });
      isCutOff = true;
      const options = [{ driver: "raw", "node-name": node, "read-only": readOnly, file: nothing }];
      await qmp.execute("blockdev-reopen", { options });
    },
    async remove() {
      await removeNode(node);
      if (isCutOff) await removeNode(nothing);
    },
  };
}
