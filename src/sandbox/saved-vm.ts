import { closeSync } from "node:fs";
import { open } from "node:fs/promises";
import type { AgentEvents } from "../agent-client/agent-types.ts";
import { HeldGuests } from "../agent-client/held-guests.ts";
import type { GuestAddress } from "../agent-client/vsock.ts";
import { Cleanup } from "../base/cleanup.ts";
import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import { loadNative } from "../base/native.ts";
import { scope } from "../base/scope.ts";
import { configFor } from "../config/annotations.ts";
import { describeConsole } from "./console-end.ts";
import { describeVmFiles } from "./guest-files.ts";
import { createHostState } from "./host-state.ts";
import { nobodysSpec } from "./ready-vm.ts";
import { removeSandbox } from "./remove.ts";
import { sizeOf, thisHost, type VmSize } from "./sizing.ts";
import { startVm } from "./start-vm.ts";
import { Timeline } from "./timeline.ts";
import { bootSandboxVm, type SandboxVm, unless, type VmRequest } from "./vm.ts";

export interface SaveOptions
  extends Pick<VmRequest, "namespace" | "sandboxId" | "config" | "hypervisor" | "log" | "signal"> {
  /** EROFS image of the root of the containers. */
  readonly rootImage: string;
}

/**
 * A VM that has booted, and was saved before it was anybody's: no code but the guest's own has run in it. Its memory is a sealed file without
 * a name, so that it is gone with this process, and nobody who has it can write to it.
 */
export interface SavedVm extends AsyncDisposable {
  /** Whether a VM that is booted now would be of the same files, and the saved one can be restored at all. */
  isCurrent(): boolean;
  /** Instead of `bootSandboxVm`. A sandbox that asks for something else than the saved VM has is booted. */
  restore(request: VmRequest): Promise<SandboxVm>;
}

/**
 * Boots a VM, has its guest hold still, and saves it; the VM is gone then. On failure nothing is left.
 *
 * @throws failed_precondition  the machine or the way to the guest is none that can be saved
 */
export async function saveBootedVm(options: SaveOptions): Promise<SavedVm> {
  checkSavable(options);
  const { namespace, sandboxId, config, signal } = options;
  const files = describeVmFiles(config, options.rootImage);
  const size = sizeOf(nobodysSpec, config, thisHost());
  await using cleanup = new Cleanup();
  const native = loadNative();
  const memoryFd = native.makeMemfd("caisson-memory", size.memoryMiB);
  cleanup.defer("memory", () => closeSync(memoryFd));
  const stateFd = native.makeMemfd("caisson-state", 0);
  cleanup.defer("state of the devices", () => closeSync(stateFd));
  const guests = new HeldGuests();
  cleanup.defer("ready listener", () => guests[Symbol.asyncDispose]());
  const host = await createHostState(namespace, sandboxId, config);
  let macAddress: string;
  try {
    using limit = scope(signal, config.bootTimeoutMs, "the boot of the VM that is to be saved");
    macAddress = await bootAndSave({ options, host, guests, memoryFd, stateFd }, limit.signal);
  } finally {
    host.shared[Symbol.dispose]();
    host.journal[Symbol.dispose]();
    await removeSandbox({ stateDirectory: config.stateDirectory, namespace, sandboxId });
  }
  // Nobody has it mapped any more.
  native.sealMemfd(memoryFd);
  native.sealMemfd(stateFd);
  options.log.info({ vcpus: size.vcpus, memoryMiB: size.memoryMiB }, "a VM was saved");
  return new MemorySavedVm({ options, files, size, macAddress, memoryFd, stateFd, guests }, cleanup.move());
}

/** What QEMU can save at all: nothing that is served by another process (vhost-user). */
function checkSavable({ config, hypervisor }: SaveOptions): void {
  const refuse = (fact: string) => {
    throw new RuntimeError("failed_precondition", `Cannot save a VM: ${fact}`);
  };
  if (hypervisor.name !== "qemu") refuse(`"${hypervisor.name}" does not; set hypervisor = "qemu"`);
  if (config.machine !== "microvm")
    refuse(`not with the machine "${config.machine}"; set machine = "microvm"`);
}

interface Saving {
  readonly options: SaveOptions;
  readonly host: Awaited<ReturnType<typeof createHostState>>;
  readonly guests: HeldGuests;
  readonly memoryFd: number;
  readonly stateFd: number;
}

/** Returns the MAC address of the guest's network card. */
async function bootAndSave(saving: Saving, signal: AbortSignal): Promise<string> {
  const { options, host, guests, memoryFd, stateFd } = saving;
  await using cleanup = new Cleanup();
  const request: VmRequest = {
    ...options,
    host,
    spec: nobodysSpec,
    blockDevices: [],
    isWithoutShare: true,
    events: silent,
    timeline: new Timeline(),
    observer: undefined,
    signal,
  };
  const origin = {
    memory: { tag: "kept", fd: memoryFd } as const,
    listen: async (guest: GuestAddress) => guests.expectFirst(kernelCid("save", guest)),
  };
  const { vm, vsock, network, over } = await startVm(request, origin, cleanup, signal);
  try {
    await unless(over, vsock.ready.ready(signal));
    await vm.save(stateFd, signal);
  } catch (error) {
    signal.throwIfAborted();
    throw new RuntimeError(
      codeOf(error),
      `Cannot save a VM: ${describe(error)}; ${describeConsole(vm.consoleTail())}`,
      { cause: error },
    );
  }
  return network.nics[0]?.macAddress ?? "";
}

/** @throws failed_precondition  the guest is reached in another way than by the kernel's vhost-vsock */
function kernelCid(verb: "save" | "restore", guest: GuestAddress): number {
  if (guest.tag === "vsock") return guest.cid;
  throw new RuntimeError(
    "failed_precondition",
    `Cannot ${verb} a VM: vhost-device-vsock cannot be saved, and this kernel has no vhost-vsock; load the module ("modprobe vhost_vsock") and leave vsock = "auto"`,
  );
}

const silent: AgentEvents = { onExit: () => {}, onOomKill: () => {}, onNotification: () => {} };

interface Saved extends Omit<Saving, "host"> {
  readonly files: string;
  readonly size: VmSize;
  readonly macAddress: string;
}

class MemorySavedVm implements SavedVm {
  readonly #saved: Saved;
  readonly #owned: Cleanup;
  readonly #restores = new Set<Promise<unknown>>();
  #isClosed = false;

  constructor(saved: Saved, owned: Cleanup) {
    this.#saved = saved;
    this.#owned = owned;
  }

  isCurrent(): boolean {
    const { files, options } = this.#saved;
    return !this.#saved.guests.isPortLost && describeVmFiles(options.config, options.rootImage) === files;
  }

  async restore(request: VmRequest): Promise<SandboxVm> {
    if (this.#suits(request)) return await this.#use(() => this.#restore(request));
    request.log.info("the saved VM does not suit: another one is booted");
    return await bootSandboxVm(request);
  }

  #suits({
    spec,
    config,
    rootImage,
    isWithoutShare = false,
    blockDevices,
    vfioGroups = [],
  }: VmRequest): boolean {
    const { options, size } = this.#saved;
    const wanted = configFor(spec.annotations, config);
    const wantedSize = sizeOf(spec, wanted, thisHost());
    return (
      isWithoutShare &&
      rootImage === options.rootImage &&
      blockDevices.length + vfioGroups.length === 0 &&
      wantedSize.vcpus === size.vcpus &&
      wantedSize.memoryMiB === size.memoryMiB &&
      JSON.stringify(wanted) === JSON.stringify(options.config)
    );
  }

  /** Keeps the descriptors open as long as `work` goes on. */
  async #use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isClosed)
      throw new RuntimeError("failed_precondition", "Cannot restore a VM: what was saved is closed");
    const working = work();
    this.#restores.add(working);
    try {
      return await working;
    } finally {
      this.#restores.delete(working);
    }
  }

  async #restore(request: VmRequest): Promise<SandboxVm> {
    const { memoryFd, stateFd, macAddress, guests } = this.#saved;
    // With a position of its own.
    await using state = await open(`/proc/self/fd/${stateFd}`, "r");
    return await bootSandboxVm(request, {
      memory: { tag: "restored", fd: memoryFd, stateFd: state.fd },
      macAddress,
      listen: async (guest) => guests.expectRestored(kernelCid("restore", guest)),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#restores);
    await this.#owned[Symbol.asyncDispose]();
  }
}
