import { closeSync } from "node:fs";
import { connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { Cleanup } from "../../base/cleanup.ts";
import { type Daemon, startDaemon } from "../../base/daemon.ts";
import { RuntimeError } from "../../base/errors.ts";
import { openShortPath, removeFile } from "../../base/files.ts";
import { foreignText } from "../../base/log.ts";
import { loadNative } from "../../base/native.ts";
import { scope, within } from "../../base/scope.ts";
import { TextRing } from "../../base/text-ring.ts";
import { inspectKvmDevice } from "../accelerator.ts";
import { type BootOptions, type Hypervisor, type RunningVm, vsockSocketName } from "../hypervisor.ts";
import { openVmFile } from "../open-file.ts";
import { openProgram } from "../program.ts";
import { fixedVm, ownRunningVm, processName, type RunningVmParts } from "../running-vm.ts";
import type { VmConfig } from "../vm-config.ts";
import { type DeviceFolder, openDeviceFolder } from "./device-folder.ts";
import { EventReader, type MonitorEvent } from "./events.ts";
import { Hotplug } from "./hotplug.ts";
import {
  apiSocketName,
  type CloudHypervisorPlan,
  consoleSocketName,
  neededLandlock,
  planCloudHypervisor,
} from "./plan.ts";
import { Resize } from "./resize.ts";
import { addNet, type Api, bootVm, createVm } from "./rest.ts";

export interface CloudHypervisorOptions {
  readonly cloudHypervisorPath: string;
  /** Told of a protection that this host cannot give. */
  readonly warn: (text: string) => void;
}

/** Of a request to one that runs. Takes some milliseconds. */
const callTimeoutMs = 20_000;
/** How long the end of a process, whose connection has ended already, may take to be noticed. */
const exitNoticeMs = 2_000;
const consoleLimitBytes = 64 * 1024;
const name = "Cloud Hypervisor";

/** The driver for Cloud Hypervisor 53 and newer. */
export function createCloudHypervisorDriver(options: CloudHypervisorOptions): Hypervisor {
  return {
    name: "cloud-hypervisor",
    vsockTransports: ["hybrid"],
    boot: (config, bootOptions) => boot(options, config, bootOptions),
  };
}

async function boot(
  driver: CloudHypervisorOptions,
  config: VmConfig,
  options: BootOptions,
): Promise<RunningVm> {
  options.signal.throwIfAborted();
  const plan = planCloudHypervisor(config, { landlock: hasLandlock(driver) });
  using directory = openShortPath(config.directory);
  await using cleanup = new Cleanup();
  const removeSockets = async () => {
    for (const file of [apiSocketName, consoleSocketName, vsockSocketName])
      await removeFile(`${config.directory}/${file}`);
  };
  await removeSockets();
  cleanup.defer("sockets of the VMM", removeSockets);

  const folder = openDeviceFolder(config.user);
  cleanup.defer("device folder", () => folder[Symbol.dispose]());
  const daemon = await start(driver, config, { plan, folder, apiPath: `${directory.path}/${apiSocketName}` });
  cleanup.defer(name, () => daemon.stop(0));
  options.onProcess(processName(daemon), daemon.identity);
  const hotplug = new Hotplug({ sandboxId: config.sandboxId, folder, call: caller(config) });
  const shutdown = watchEvents(daemon, (event) => hotplug.onEvent(event));
  const guestConsole = new TextRing(consoleLimitBytes);
  try {
    const api = { path: `${directory.path}/${apiSocketName}`, signal: options.signal };
    await describeAndBoot(api, plan, folder, () => {
      const socket = readConsole(`${directory.path}/${consoleSocketName}`, guestConsole);
      cleanup.defer("console", () => socket.destroy());
    });
  } catch (error) {
    throw await explain(error, config, daemon, guestConsole);
  }
  return ownRunningVm({
    vmm: daemon,
    helpers: [],
    consoleTail: () => guestConsole.toString(),
    shutdownReason: shutdown,
    changes: changesOf(config, hotplug),
    owned: cleanup.move(),
  });
}

function changesOf(config: VmConfig, hotplug: Hotplug): RunningVmParts["changes"] {
  if (config.growth === undefined) {
    return fixedVm(
      `with the machine "${config.machine}" it keeps what it boots with; "q35" with a kernel that has ACPI can grow`,
    );
  }
  const size = new Resize({ config, call: caller(config) });
  return {
    plug: (device) => hotplug.plug(device),
    unplug: (id) => hotplug.unplug(id),
    resize: (wanted) => size.resize(wanted),
  };
}

/** Runs requests of the API of a VM, each within a limit of its own. */
function caller({ sandboxId, directory }: VmConfig): <T>(work: (api: Api) => Promise<T>) => Promise<T> {
  return async (work) => {
    using limit = scope(undefined, callTimeoutMs, `a request to ${name} of sandbox "${sandboxId}"`);
    using shortDirectory = openShortPath(directory);
    return await work({ path: `${shortDirectory.path}/${apiSocketName}`, signal: limit.signal });
  };
}

function hasLandlock({ warn }: CloudHypervisorOptions): boolean {
  const version = loadNative().landlockVersion();
  if (version >= neededLandlock) return true;
  warn(
    `Cloud Hypervisor runs without Landlock: this kernel has version ${version} of it, expected ${neededLandlock} or newer (Linux 6.2)`,
  );
  return false;
}

interface StartOptions {
  readonly plan: CloudHypervisorPlan;
  readonly folder: DeviceFolder;
  readonly apiPath: string;
}

/** Starts the process, whose API listens already when this returns. */
async function start(
  { cloudHypervisorPath }: CloudHypervisorOptions,
  config: VmConfig,
  { plan, folder, apiPath }: StartOptions,
): Promise<Daemon> {
  const advice = "install it or set cloud_hypervisor_path";
  await using program = await openProgram(name, cloudHypervisorPath, advice);
  await using inherited = new Cleanup();
  const listener = loadNative().listenUnix(apiPath);
  inherited.defer("API socket", () => closeSync(listener));
  const fds: ("socket" | number)[] = [listener, "socket"];
  for (const file of plan.inherited)
    fds.push(file.tag === "device folder" ? folder.fd : await openVmFile(file, inherited));
  const kvm = await inspectKvmDevice();
  return await startDaemon({
    name,
    argv: [program.path(3 + fds.length), ...plan.args],
    privileges: {
      user: config.user,
      groups: kvm.tag === "group" ? [kvm.gid] : [],
      capabilities: [],
      ...(config.netnsPath === undefined ? {} : { netnsPath: config.netnsPath }),
    },
    cwd: config.directory,
    fds: program.fd === undefined ? fds : [...fds, program.fd],
  });
}

async function describeAndBoot(
  api: Api,
  plan: CloudHypervisorPlan,
  folder: DeviceFolder,
  onCreated: () => void,
): Promise<void> {
  for (const disk of plan.blockDevices) await folder.add(disk);
  await createVm(api, plan.vm);
  onCreated();
  for (const { body, tapFd } of plan.nets) await addNet(api, body, tapFd);
  await bootVm(api);
  for (const disk of plan.blockDevices) folder.remove(disk);
}

/** Reads on for ever: a guest whose console is full would wait. */
function readConsole(path: string, ring: TextRing): Socket {
  const socket = connect(path);
  socket.on("data", (chunk: Buffer) => ring.push(chunk));
  socket.on("error", () => {
    // The VMM is gone; its exit is reported by the daemon.
  });
  return socket;
}

/** Ends the VMM when its guest reboots: a VM boots once. Returns what the guest did to end it. */
function watchEvents(daemon: Daemon, onEvent: (event: MonitorEvent) => void): () => string | undefined {
  let reason: string | undefined;
  const monitor: Duplex | undefined = daemon.sockets[0];
  const events = new EventReader();
  monitor?.on("error", () => {});
  monitor?.on("data", (chunk: Buffer) => {
    for (const entry of events.push(chunk.toString("latin1"))) {
      const { source, event } = entry;
      onEvent(entry);
      if (source === "vm" && event === "rebooting") {
        reason ??= "the guest reset";
        daemon.kill("SIGKILL");
      }
      if (source === "vm" && event === "shutdown") reason ??= "the guest powered off";
    }
  });
  return () => reason;
}

/** Puts the last words of the process in the place of "the connection ended". */
async function explain(
  error: unknown,
  config: VmConfig,
  daemon: Daemon,
  guestConsole: TextRing,
): Promise<unknown> {
  if (!(error instanceof RuntimeError) || error.code !== "unavailable") return error;
  await within(daemon.exited, exitNoticeMs, undefined);
  if (!daemon.hasExited) return error;
  const lines = guestConsole.lastLines(5).map((line) => foreignText(line));
  const shown = lines.length === 0 ? "" : `; the console's last lines: ${lines.join(" | ")}`;
  return new RuntimeError(
    "unavailable",
    `Cannot start the VM of sandbox "${config.sandboxId}": ${daemon.lastWords()}${shown}`,
    { cause: error },
  );
}
