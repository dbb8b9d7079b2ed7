import { RuntimeError } from "../../base/errors.ts";
import { Mutex } from "../../base/mutex.ts";
import { within } from "../../base/scope.ts";
import type { VmConfig } from "../vm-config.ts";
import { growingMemoryId, growingMiB, memoryStepMiB } from "./plan-growth.ts";
import type { Qmp } from "./qmp.ts";
import type { QmpEvents } from "./qmp-events.ts";

/** How long the guest may take to take memory. QEMU tells of it once in a second. */
const memoryTimeoutMs = 20_000;
const mebibyte = 1024 ** 2;

export interface ResizeParts {
  readonly config: VmConfig;
  readonly qmp: Qmp;
  readonly events: QmpEvents;
}

/** The size of a running QEMU with `Growth`. One change at a time. */
export class Resize {
  readonly #parts: ResizeParts;
  readonly #changes = new Mutex();

  constructor(parts: ResizeParts) {
    this.#parts = parts;
  }

  resize({ vcpus, memoryMiB }: { vcpus: number; memoryMiB: number }): Promise<void> {
    return this.#changes.run(async () => {
      await this.#growMemory(memoryMiB);
      await this.#addCpus(vcpus);
    });
  }

  async #growMemory(memoryMiB: number): Promise<void> {
    const { qmp, config, events } = this.#parts;
    const wanted = (memoryMiB - config.memoryMiB) * mebibyte;
    if (wanted <= 0) return;
    const limit = growingMiB(config) * mebibyte;
    const refuse = (fact: string) =>
      new RuntimeError(
        "resource_exhausted",
        `Cannot grow sandbox "${config.sandboxId}" to ${memoryMiB} MiB of memory: ${fact}`,
      );
    if (wanted > limit) throw refuse(`it can have ${config.memoryMiB + limit / mebibyte} MiB`);
    const step = memoryStepMiB * mebibyte;
    const requested = Math.ceil(wanted / step) * step;
    if ((await readMemoryBytes(qmp)) >= requested) return;
    const request = (bytes: number) =>
      qmp.execute("qom-set", {
        path: `/machine/peripheral/${growingMemoryId}`,
        property: "requested-size",
        value: bytes,
      });
    const taken = Promise.withResolvers<void>();
    const stop = events.listen(({ name, data }) => {
      if (
        name === "MEMORY_DEVICE_SIZE_CHANGE" &&
        data["id"] === growingMemoryId &&
        Number(data["size"]) >= requested
      )
        taken.resolve();
    });
    try {
      await request(requested);
      if ((await within(taken.promise, memoryTimeoutMs, "late" as const)) !== "late") return;
    } finally {
      stop();
    }
    const bytes = await readMemoryBytes(qmp);
    if (bytes >= requested) return;
    // It keeps what it has taken, but is not to take more while nobody counts on it.
    await request(bytes);
    throw refuse(
      `within ${memoryTimeoutMs} ms its guest has taken ${bytes / mebibyte} MiB of ${requested / mebibyte} MiB`,
    );
  }

  async #addCpus(vcpus: number): Promise<void> {
    const { qmp } = this.#parts;
    const { free, present } = await readCpus(qmp);
    const missing = Math.max(0, vcpus - present);
    if (missing > free.length) {
      throw new RuntimeError(
        "resource_exhausted",
        `Cannot grow sandbox "${this.#parts.config.sandboxId}" to ${vcpus} vCPUs: it can have ${present + free.length}`,
      );
    }
    for (const { type, props } of free.slice(0, missing)) {
      await qmp.execute("device_add", { driver: type, id: `cpu-${props["socket-id"]}`, ...props });
    }
  }
}

/** What the guest has taken (query-memory-devices, qapi/machine.json). */
async function readMemoryBytes(qmp: Qmp): Promise<number> {
  const answer = (await qmp.execute("query-memory-devices")) as readonly { readonly data?: unknown }[];
  const devices = answer.map(({ data }) => data as Readonly<Record<string, unknown>>);
  return Number(devices.find(({ id }) => id === growingMemoryId)?.["size"] ?? 0);
}

interface FreeCpu {
  readonly type: string;
  readonly props: Readonly<Record<string, number>>;
}

/** Places for CPUs, those of the lowest number first (query-hotpluggable-cpus, qapi/machine.json). */
async function readCpus(qmp: Qmp): Promise<{ readonly free: readonly FreeCpu[]; readonly present: number }> {
  const places = (await qmp.execute("query-hotpluggable-cpus")) as readonly (FreeCpu & {
    "qom-path"?: string;
  })[];
  const free = places.filter((place) => place["qom-path"] === undefined);
  const number = ({ props }: FreeCpu) => props["socket-id"] ?? 0;
  return { free: free.toSorted((a, b) => number(a) - number(b)), present: places.length - free.length };
}
