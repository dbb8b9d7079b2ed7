import { chown, mkdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { listenForReady, type ReadyListener } from "../agent-client/ready.ts";
import { rootDiskId } from "../agent-client/root-disk.ts";
import type { GuestAddress } from "../agent-client/vsock.ts";
import { Cleanup } from "../base/cleanup.ts";
import type { Daemon } from "../base/daemon.ts";
import { RuntimeError } from "../base/errors.ts";
import { openShortPath } from "../base/files.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import { settleAll } from "../base/settle.ts";
import { chooseAccelerator, type HostVirtualization, inspectHost } from "../hypervisor/accelerator.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import { formatKernelParams } from "../hypervisor/kernel-params.ts";
import type { Disk, Growth, VmConfig, VmMemory } from "../hypervisor/vm-config.ts";
import { shareTag } from "../storage/shared-dir.ts";
import { startVirtiofsd, type Virtiofsd } from "../storage/virtiofsd.ts";
import { findBlockVolumes } from "./block-volumes.ts";
import { cgroupPlaceOf } from "./cgroup-path.ts";
import { findGuestFiles } from "./guest-files.ts";
import { findHostDevices } from "./host-devices.ts";
import { orOomKill } from "./oom-kill.ts";
import { growthOf, sizeOf, thisHost, type VmSize } from "./sizing.ts";
import type { VmRequest } from "./vm.ts";
import { makeVmNetwork, type VmNetwork } from "./vm-network.ts";
import { makeCgroupFor, type VmPlace } from "./vm-place.ts";
import { makeVmVsock, type VmVsock } from "./vm-vsock.ts";

const virtiofsSocketName = "virtiofs.sock";
/** How long the end of QEMU may take to be noticed after that of a helper that served it. */
const vmmEndNoticeMs = 1_000;

/** How a VM comes to be: booted, or restored from one that was saved. */
export interface VmOrigin {
  /** Undefined: booted, in memory of its own. */
  readonly memory?: VmMemory;
  /** Of its one network card, where the guest has it already. */
  readonly macAddress?: string;
  /** How its agent is waited for. */
  readonly listen: (guest: GuestAddress) => Promise<ReadyListener>;
}

export const coldBoot: VmOrigin = { listen: listenForReady };

/** A VM whose CPUs run, and what belongs to it on the host. The `Cleanup` that it was started with owns it. */
export interface StartedVm {
  readonly vm: RunningVm;
  /** When it ran, on the clock of `performance.now()`. */
  readonly startedMs: number;
  readonly size: VmSize;
  readonly growth: Growth | undefined;
  readonly volumes: ReadonlyMap<string, Disk>;
  readonly vsock: VmVsock;
  readonly network: VmNetwork;
  readonly virtiofsd: Virtiofsd | undefined;
  readonly cgroup: ConstructorParameters<typeof VmPlace>[0]["cgroup"];
  /** Resolves with a reason when the VM has ended, or a helper that it cannot live without. Never rejects. */
  readonly over: Promise<string>;
  /** Of the VM on the host. */
  processes(): readonly ProcessIdentity[];
}

/**
 * Starts the VM of a sandbox whose directory and journal exist. What can be made at the same time is. On failure too, what there is of it is
 * released by `cleanup`.
 */
export async function startVm(
  request: VmRequest,
  origin: VmOrigin,
  cleanup: Cleanup,
  signal: AbortSignal,
): Promise<StartedVm> {
  const { config, log, timeline } = request;
  const { paths, journal, uid } = request.host;
  // Before anything is made: what is missing or does not fit is said at once.
  const guest = findGuestFiles(config);
  const size = sizeOf(request.spec, config, thisHost());
  const growth = config.machine === "q35" && guest.acpi ? growthOf(size, config, thisHost()) : undefined;
  cgroupPlaceOf(request.spec, config);
  const volumes = await findBlockVolumes(request.blockDevices);
  const hostDevices = await findHostDevices(request.vfioGroups ?? []);
  const host = await inspectHost();
  const accelerator = chooseAccelerator(config.accel, host);
  if (accelerator === "tcg")
    log.warn("accelerator tcg: software emulation is for development and tests and is no security boundary");
  const user = { uid, gid: uid };

  await mkdir(paths.vm, { mode: 0o700 });
  await chown(paths.vm, user.uid, user.gid);
  const vmDirectory = openShortPath(paths.vm);
  cleanup.defer("handle of the VM's directory", () => vmDirectory[Symbol.dispose]());
  const parts = new Cleanup();
  cleanup.defer("host parts of the VM", () => parts[Symbol.asyncDispose]());
  const [vsock, network, virtiofsd, cgroup] = await settleAll([
    makeVsock(request, origin, { user, directory: vmDirectory.path }, parts),
    timeline.measure("network", () =>
      makeVmNetwork({ spec: request.spec, paths, journal, macAddress: origin.macAddress }, parts, signal),
    ),
    timeline.measure("virtiofsd", async () =>
      request.isWithoutShare
        ? undefined
        : await serveShare(request, user, `${vmDirectory.path}/${virtiofsSocketName}`, parts),
    ),
    makeCgroupFor(request.spec, { config, journal, log }),
  ]);
  if (virtiofsd !== undefined) cgroup?.add(virtiofsd.identity.pid);

  const vmConfig: VmConfig = {
    sandboxId: request.sandboxId,
    directory: paths.vm,
    user,
    machine: config.machine,
    accelerator,
    vcpus: size.vcpus,
    memoryMiB: size.memoryMiB,
    ...(origin.memory !== undefined && { memory: origin.memory }),
    ...(growth !== undefined && { growth }),
    kernel: {
      path: guest.kernelPath,
      ...(guest.initrdPath === undefined ? {} : { initrdPath: guest.initrdPath }),
      commandLine: formatKernelParams({
        hasInitrd: guest.initrdPath !== undefined,
        ...tscParams(accelerator, host),
        readyPort: vsock.ready.port,
        canGrow: growth !== undefined,
        debugAgent: config.debugGuest,
      }),
      acpi: guest.acpi,
    },
    disks: [
      { id: "image", path: guest.imagePath, readOnly: true, isShared: true },
      ...(request.rootImage === undefined
        ? []
        : [{ id: rootDiskId, path: request.rootImage, readOnly: true }]),
      ...volumes.values(),
    ],
    shares: virtiofsd === undefined ? [] : [{ tag: shareTag, socketName: virtiofsSocketName }],
    nics: network.nics,
    hostDevices,
    vsock: vsock.device,
    netnsPath: network.netnsPath,
  };
  const vm = await timeline.measure("VMM", () =>
    orOomKill(cgroup, () =>
      request.hypervisor.boot(vmConfig, {
        signal: AbortSignal.any([signal, ...(virtiofsd === undefined ? [] : [abortWith(virtiofsd)])]),
        onProcess: (name, identity) => {
          cgroup?.add(identity.pid);
          journal.add({ kind: "process", name, identity });
        },
      }),
    ),
  );
  cleanup.defer("VM", () => vm[Symbol.asyncDispose]());
  await network.closeTaps();
  vsock.closeDevice();
  const startedMs = performance.now();
  // QEMU has its answers by now, so there is somebody who gave them.
  const worker = virtiofsd?.worker();
  if (worker !== undefined) {
    cgroup?.add(worker.pid);
    journal.add({ kind: "process", name: "virtiofsd worker", identity: worker });
  }
  if (virtiofsd !== undefined) request.host.shared.serve(virtiofsd.identity.pid);
  await cgroup?.moved();
  return {
    vm,
    startedMs,
    size,
    growth,
    volumes,
    vsock,
    network,
    virtiofsd,
    cgroup,
    over: Promise.race([
      vm.exited.then(({ reason }) => reason),
      ...(virtiofsd === undefined ? [] : [endOf(virtiofsd)]),
    ]),
    processes: () => [
      ...vm.processes.values(),
      ...[virtiofsd?.identity, virtiofsd?.worker()].filter((identity) => identity !== undefined),
    ],
  };
}

/** Its phase in the timeline says which way was chosen. */
async function makeVsock(
  { hypervisor, config, timeline }: VmRequest,
  { listen }: VmOrigin,
  place: { readonly user: { readonly uid: number; readonly gid: number }; readonly directory: string },
  parts: Cleanup,
): Promise<VmVsock> {
  const startMs = performance.now();
  const vsock = await makeVmVsock({ hypervisor, config, ...place, listen }, parts);
  timeline.add(`vsock (${vsock.device.tag})`, startMs, performance.now() - startMs);
  return vsock;
}

async function serveShare(
  request: VmRequest,
  user: { uid: number; gid: number },
  socketPath: string,
  parts: Cleanup,
): Promise<Virtiofsd> {
  const { paths, shared, journal } = request.host;
  const virtiofsd = await startVirtiofsd({
    program: request.config.virtiofsdPath,
    sharedDirectory: shared.path,
    directory: paths.vm,
    socketPath,
    user,
  });
  parts.defer("virtiofsd", () => virtiofsd.stop(0));
  journal.add({ kind: "process", name: virtiofsd.name, identity: virtiofsd.identity });
  return virtiofsd;
}

function tscParams(accelerator: "kvm" | "tcg", host: HostVirtualization): { tscKhz?: number } {
  return accelerator === "tcg" && host.cpu.tscKhz !== undefined ? { tscKhz: host.cpu.tscKhz } : {};
}

/** Aborts when a helper ends that the VM cannot boot without. */
function abortWith(daemon: Daemon): AbortSignal {
  const controller = new AbortController();
  void endOf(daemon).then((words) => controller.abort(new RuntimeError("unavailable", words)));
  return controller.signal;
}

/**
 * Resolves with a helper's last words. One that ends with success does so because QEMU hung up: then QEMU's end is the
 * news, which is given the time to arrive.
 */
async function endOf(daemon: Daemon): Promise<string> {
  const { exitCode } = await daemon.exited;
  if (exitCode === 0) await sleep(vmmEndNoticeMs, undefined, { ref: false });
  return daemon.lastWords();
}
