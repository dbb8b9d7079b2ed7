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
import { fixedVm, ownRunningVm, processName } from "../running-vm.ts";
import type { VmConfig } from "../vm-config.ts";
import { EventReader } from "./events.ts";
import {
  apiSocketName,
  type CloudHypervisorPlan,
  consoleSocketName,
  neededLandlock,
  planCloudHypervisor,
} from "./plan.ts";
import { addNet, type Api, bootVm, createVm } from "./rest.ts";

export interface CloudHypervisorOptions {
  readonly cloudHypervisorPath: string;
  /** Told of a protection that this host cannot give. */
  readonly warn: (text: string) => void;
}

/** From the start of the process to a guest that runs. */
const startTimeoutMs = 30_000;
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
  using limit = scope(
    options.signal,
    startTimeoutMs,
    `the start of ${name} for sandbox "${config.sandboxId}"`,
  );
  const plan = planCloudHypervisor(config, { landlock: hasLandlock(driver) });
  using directory = openShortPath(config.directory);
  await using cleanup = new Cleanup();
  const removeSockets = async () => {
    for (const file of [apiSocketName, consoleSocketName, vsockSocketName])
      await removeFile(`${config.directory}/${file}`);
  };
  await removeSockets();
  cleanup.defer("sockets of the VMM", removeSockets);

  const daemon = await start(driver, config, plan, `${directory.path}/${apiSocketName}`);
  cleanup.defer(name, () => daemon.stop(0));
  options.onProcess(processName(daemon), daemon.identity);
  const shutdown = watchEvents(daemon);
  const guestConsole = new TextRing(consoleLimitBytes);
  try {
    const api = { path: `${directory.path}/${apiSocketName}`, signal: limit.signal };
    await describeAndBoot(api, plan, () => {
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
    changes: fixedVm(
      'with Cloud Hypervisor it keeps what it boots with; QEMU\'s machine type "q35" can grow',
    ),
    owned: cleanup.move(),
  });
}

function hasLandlock({ warn }: CloudHypervisorOptions): boolean {
  const version = loadNative().landlockVersion();
  if (version >= neededLandlock) return true;
  warn(
    `Cloud Hypervisor runs without Landlock: this kernel has version ${version} of it, expected ${neededLandlock} or newer (Linux 6.2)`,
  );
  return false;
}

/** Starts the process, whose API listens already when this returns. */
async function start(
  { cloudHypervisorPath }: CloudHypervisorOptions,
  config: VmConfig,
  plan: CloudHypervisorPlan,
  apiPath: string,
): Promise<Daemon> {
  const advice = "install it or set cloud_hypervisor_path";
  await using program = await openProgram(name, cloudHypervisorPath, advice);
  await using inherited = new Cleanup();
  const listener = loadNative().listenUnix(apiPath);
  inherited.defer("API socket", () => closeSync(listener));
  const fds: ("socket" | number)[] = [listener, "socket"];
  for (const file of plan.files) fds.push(await openVmFile(file, inherited));
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

async function describeAndBoot(api: Api, plan: CloudHypervisorPlan, onCreated: () => void): Promise<void> {
  await createVm(api, plan.vm);
  onCreated();
  for (const { body, tapFd } of plan.nets) await addNet(api, body, tapFd);
  await bootVm(api);
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
function watchEvents(daemon: Daemon): () => string | undefined {
  let reason: string | undefined;
  const monitor: Duplex | undefined = daemon.sockets[0];
  const events = new EventReader();
  monitor?.on("error", () => {});
  monitor?.on("data", (chunk: Buffer) => {
    for (const { source, event } of events.push(chunk.toString("latin1"))) {
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
