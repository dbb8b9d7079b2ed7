import { stat } from "node:fs/promises";
import { Cleanup } from "../../base/cleanup.ts";
import type { Daemon } from "../../base/daemon.ts";
import { RuntimeError } from "../../base/errors.ts";
import { foreignText } from "../../base/log.ts";
import { abortable, within } from "../../base/scope.ts";
import { inspectKvmDevice } from "../accelerator.ts";
import type { BootOptions, Hypervisor, RunningVm } from "../hypervisor.ts";
import type { VmConfig } from "../vm-config.ts";
import { type InheritedFd, planQemu, type QemuPlan } from "./plan.ts";
import { openVmFile } from "../open-file.ts";
import { openProgram } from "../program.ts";
import { type QemuProcess, startQemu } from "./qemu-process.ts";
import { Hotplug } from "./hotplug.ts";
import { Qmp, type QmpEvent } from "./qmp.ts";
import { QmpEvents } from "./qmp-events.ts";
import { Resize } from "./resize.ts";
import { restoreVm, saveVm } from "./save.ts";
import { fixedVm, ownRunningVm, processName, type RunningVmParts } from "../running-vm.ts";
import { startVsockBackend } from "./vsock-backend.ts";

export interface QemuPrograms {
  readonly qemuPath: string;
  readonly vhostDeviceVsockPath: string;
}

/** How long the end of QEMU, whose connection has ended already, may take to be noticed. */
const exitNoticeMs = 2_000;
const qemuAdvice = 'install it ("apt-get install qemu-system-x86") or set qemu_path';

/** The driver for QEMU 7.2 and newer. */
export function createQemuDriver(programs: QemuPrograms): Hypervisor {
  return {
    name: "qemu",
    vsockTransports: ["vhost-vsock", "vhost-device-vsock"],
    boot: (config, options) => boot(programs, config, options),
  };
}

async function boot(programs: QemuPrograms, config: VmConfig, options: BootOptions): Promise<RunningVm> {
  options.signal.throwIfAborted();
  const { signal } = options;
  const plan = planQemu(config);
  await using program = await openProgram("QEMU", programs.qemuPath, qemuAdvice);
  await using files = new Cleanup();
  const fds = await openFds(plan.fds, files);
  const groups = [...(await kvmGroups(config)), ...(await vfioGroupIds(config))];

  await using cleanup = new Cleanup();
  const helpers = await startHelpers(programs, config, options, cleanup);

  const qemu = await startQemu({
    name: "QEMU",
    argv: [program.path(3 + fds.length), ...plan.args],
    privileges: {
      user: config.user,
      groups,
      capabilities: [],
      ...(config.netnsPath === undefined ? {} : { netnsPath: config.netnsPath }),
    },
    cwd: config.directory,
    fds: program.fd === undefined ? fds : [...fds, program.fd],
  });
  cleanup.defer("QEMU", () => qemu[Symbol.asyncDispose]());
  options.onProcess(processName(qemu.daemon), qemu.daemon.identity);

  let shutdown: string | undefined;
  const events = new QmpEvents();
  events.listen((event) => {
    shutdown ??= shutdownReason(event);
  });
  let qmp: Qmp;
  try {
    // An answer proves that the guest's CPUs run: commands are answered from QEMU's main loop, entered after that.
    const connected = Qmp.connect(qemu.qmpSocket, { signal, onEvent: events.deliver });
    const helperEnds = helpers.map(async (helper): Promise<never> => {
      await helper.exited;
      throw new RuntimeError("unavailable", "A helper of the VM ended");
    });
    qmp = await abortable(Promise.race([connected, ...helperEnds]), signal);
    if (config.memory?.tag === "restored") await restoreVm({ qmp, events }, config.memory.stateFd, signal);
  } catch (error) {
    throw await explain(error, { config, signal, qemu, helpers });
  }
  return ownRunningVm({
    vmm: qemu.daemon,
    helpers,
    consoleTail: () => qemu.guestConsole.toString(),
    shutdownReason: () => shutdown,
    changes: changesOf(config, qmp, events),
    save: (stateFd, saveSignal) => saveVm({ qmp, events }, stateFd, saveSignal),
    owned: cleanup.move(),
  });
}

function changesOf(config: VmConfig, qmp: Qmp, events: QmpEvents): RunningVmParts["changes"] {
  if (config.growth === undefined) {
    return fixedVm(
      `on this machine ("${config.machine}") it keeps what it boots with; "q35" with a kernel that has ACPI can grow`,
    );
  }
  const hotplug = new Hotplug({ sandboxId: config.sandboxId, qmp, events });
  const size = new Resize({ config, qmp, events });
  return {
    plug: (device) => hotplug.plug(device),
    unplug: (id) => hotplug.unplug(id),
    resize: (wanted) => size.resize(wanted),
  };
}

/** Starts the processes that the VM cannot live without. */
async function startHelpers(
  programs: QemuPrograms,
  config: VmConfig,
  { signal, onProcess }: BootOptions,
  cleanup: Cleanup,
): Promise<Daemon[]> {
  if (config.vsock.tag !== "vhost-device-vsock") return [];
  const backend = await startVsockBackend(config, {
    programPath: programs.vhostDeviceVsockPath,
    signal,
    onProcess,
  });
  cleanup.defer("vsock backend", () => backend[Symbol.asyncDispose]());
  return [backend.daemon];
}

/** Opens what QEMU inherits. Our own copies are closed by `files`. */
async function openFds(planned: QemuPlan["fds"], files: Cleanup): Promise<("socket" | number)[]> {
  const fds: ("socket" | number)[] = [];
  for (const fd of planned) fds.push(await openFd(fd, files));
  return fds;
}

async function openFd(planned: InheritedFd, files: Cleanup): Promise<"socket" | number> {
  switch (planned.tag) {
    case "qmp":
    case "console":
      return "socket";
    case "tap":
    case "vhost-vsock":
    case "memory":
      return planned.fd;
    case "file":
      return await openVmFile(planned, files);
  }
}

/** The group that lets QEMU, which is nobody in particular, open /dev/kvm. */
async function kvmGroups({ accelerator }: VmConfig): Promise<number[]> {
  if (accelerator === "tcg") return [];
  const device = await inspectKvmDevice();
  return device.tag === "group" ? [device.gid] : [];
}

/** The groups that let QEMU open the host's devices. @throws permission_denied  root alone may */
async function vfioGroupIds({ hostDevices = [] }: VmConfig): Promise<number[]> {
  const nodes = new Set(hostDevices.map(({ group }) => `/dev/vfio/${group}`));
  return await Promise.all(
    [...nodes].map(async (path) => {
      const { mode, gid } = await stat(path);
      if ((mode & 0o060) === 0o060 && gid !== 0) return gid;
      throw new RuntimeError(
        "permission_denied",
        `Cannot give "${path}" to a VM: VMs do not run as root; give it to a group ("chgrp vfio ${path} && chmod 0660 ${path}", or a rule of udev)`,
      );
    }),
  );
}

interface FailedStart {
  readonly config: VmConfig;
  readonly signal: AbortSignal;
  readonly qemu: QemuProcess;
  readonly helpers: readonly Daemon[];
}

/** Puts the last words of the process that failed in the place of "the connection ended". */
async function explain(error: unknown, { config, signal, qemu, helpers }: FailedStart): Promise<unknown> {
  if (signal.aborted || !(error instanceof RuntimeError) || error.code !== "unavailable") return error;
  // The connection ends a moment before the process does.
  if (!helpers.some((helper) => helper.hasExited)) await within(qemu.daemon.exited, exitNoticeMs, undefined);
  const ended = [...helpers, qemu.daemon].filter((daemon) => daemon.hasExited);
  if (ended.length === 0) return error;
  const lines = qemu.guestConsole.lastLines(5).map((line) => foreignText(line));
  const facts = [
    ...ended.map((daemon) => daemon.lastWords()),
    ...(lines.length === 0 ? [] : [`the console's last lines: ${lines.join(" | ")}`]),
  ];
  return new RuntimeError(
    "unavailable",
    `Cannot start the VM of sandbox "${config.sandboxId}": ${facts.join("; ")}`,
    {
      cause: error,
    },
  );
}

/** The SHUTDOWN event in words, when the guest is the cause (qapi/run-state.json, ShutdownCause). */
function shutdownReason({ name, data }: QmpEvent): string | undefined {
  if (name !== "SHUTDOWN") return undefined;
  switch (data["reason"]) {
    case "guest-reset":
      return "the guest reset";
    case "guest-shutdown":
      return "the guest powered off";
    case "guest-panic":
      return "the guest's kernel panicked";
    default:
      return undefined;
  }
}
