import { once } from "node:events";
import { chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { basename, join } from "node:path";
import { Cleanup } from "../../src/base/cleanup.ts";
import { abortable, scope } from "../../src/base/scope.ts";
import { VsockServer } from "../../src/base/vsock.ts";
import type { Config } from "../../src/config/config.ts";
import { chooseAccelerator, inspectHost } from "../../src/hypervisor/accelerator.ts";
import { vsockSocketName } from "../../src/hypervisor/hypervisor.ts";
import { formatKernelParams } from "../../src/hypervisor/kernel-params.ts";
import { createQemuDriver } from "../../src/hypervisor/qemu/driver.ts";
import { openVhostVsock } from "../../src/hypervisor/vhost-vsock.ts";
import type { VmConfig } from "../../src/hypervisor/vm-config.ts";
import { findGuestFiles } from "../../src/sandbox/guest-files.ts";
import { startVirtiofsd } from "../../src/storage/virtiofsd.ts";
import { outcome, start } from "../support/cli-run.ts";
import type { TempDir } from "../support/temp-dir.ts";
import { planFloor } from "./floor-plan.ts";

/** The program at the other end (`floor-init/init.c`), as scripts/bench has built it. */
export interface FloorFiles {
  readonly directory: string;
  /** It alone. */
  readonly initrd: string;
  /** With busybox and a script that measures crun on the guest's image (`floor-init/exec.sh`). */
  readonly execInitrd: string;
}

/** @throws Error  scripts/bench was not what started us */
export function findFloorFiles(): FloorFiles {
  const directory = process.env["CAISSON_BENCH_FLOOR"] ?? "";
  if (directory === "" || !existsSync(join(directory, "init")))
    throw new Error("Cannot measure: the floor's init is not built; run `make bench`");
  return { directory, initrd: join(directory, "initrd"), execInitrd: join(directory, "exec-initrd") };
}

const bootTimeoutMs = 60_000;
const execShareTag = "floor-root";

export interface FloorOptions {
  readonly config: Config;
  readonly files: FloorFiles;
  readonly dir: TempDir;
}

/** A VM as a container without limits gets it, with the arguments for its init. */
async function describeVm(
  { config, dir }: FloorOptions,
  name: string,
  initrdPath: string,
  init: readonly string[],
): Promise<VmConfig> {
  const guest = findGuestFiles(config);
  const host = await inspectHost();
  const accelerator = chooseAccelerator(config.accel, host);
  const { tscKhz } = host.cpu;
  const params = formatKernelParams({
    hasInitrd: true,
    ...(accelerator === "tcg" && tscKhz !== undefined ? { tscKhz } : {}),
    debugAgent: false,
  });
  // The first user id behind those of the sandboxes.
  const uid = config.vmmUidBase + config.vmmUidCount;
  return {
    sandboxId: `${dir.token}-${name}`,
    directory: dir.join(name),
    user: { uid, gid: host.kvm.tag === "group" ? host.kvm.gid : uid },
    machine: config.machine,
    accelerator,
    vcpus: config.defaultVcpus,
    memoryMiB: config.defaultMemoryMiB,
    kernel: {
      path: guest.kernelPath,
      initrdPath,
      commandLine: [params, ...init].join(" "),
      acpi: guest.acpi,
    },
    disks: [],
    shares: [],
    nics: [],
    vsock: { tag: "vhost-device-vsock" },
  };
}

/** One run of the floor, in milliseconds since QEMU was started. */
export interface FloorBoot {
  readonly helloMs: number;
  readonly exitMs: number;
}

/** Boots the floor: the kernel, an init that says hello and resets, and QEMU's end. */
export async function prepareFloor(options: FloorOptions): Promise<() => Promise<FloorBoot>> {
  const vm = await describeVm(options, "floor", options.files.initrd, ["hello"]);
  const argv = [options.config.qemuPath, ...planFloor(vm)];
  return async () => {
    let helloMs: number | undefined;
    const exitMs = await runFloor(argv, (line, ms) => {
      if (line.startsWith("hello")) helloMs ??= ms;
    });
    if (helloMs === undefined) throw new Error("The floor did not boot: its init did not say hello");
    return { helloMs, exitMs };
  };
}

/**
 * Milliseconds of `crun exec` of `true` in a guest, as often as `runs`, after one that does not count. The container's root is in the
 * guest's memory, or `sharedRoot`, a directory of the host, by the server that sandboxes have.
 */
export async function measureCrunExec(
  options: FloorOptions,
  runs: number,
  sharedRoot?: string,
): Promise<number[]> {
  const initrd = modulesInitrd(options, options.files.execInitrd);
  const tag = sharedRoot === undefined ? [] : [execShareTag];
  const vm = await describeVm(options, "exec", initrd, ["exec", String(runs + 1), ...tag]);
  await using cleanup = new Cleanup();
  const share = sharedRoot === undefined ? undefined : await serveRoot(options, vm, sharedRoot, cleanup);
  const { imagePath } = findGuestFiles(options.config);
  const argv = [options.config.qemuPath, ...planFloor(vm, { imagePath, share })];
  const times: number[] = [];
  let beginMs = 0;
  await runFloor(argv, (line, ms) => {
    if (line === "exec begins") beginMs = ms;
    if (line === "exec ends") times.push(ms - beginMs);
  });
  if (times.length !== runs + 1)
    throw new Error(`The floor of an exec has run ${times.length} of ${runs + 1} times`);
  return times.slice(1);
}

async function serveRoot(
  { config, dir }: FloorOptions,
  vm: VmConfig,
  sharedDirectory: string,
  cleanup: Cleanup,
): Promise<{ tag: string; socketPath: string }> {
  const socketPath = dir.join("floor-root.sock");
  const program = config.virtiofsdPath;
  const spec = { program, sharedDirectory, directory: dir.path, socketPath, user: vm.user };
  const virtiofsd = await startVirtiofsd(spec);
  cleanup.defer("virtiofsd", () => virtiofsd.stop(0));
  return { tag: execShareTag, socketPath };
}

/** Runs a VM until it resets; `onLine` gets what it says on the console, and when. Returns how long it took. */
async function runFloor(
  argv: readonly string[],
  onLine: (line: string, ms: number) => void,
): Promise<number> {
  const begin = performance.now();
  await using qemu = start(argv, { timeoutMs: bootTimeoutMs });
  qemu.stdin.end();
  let stdout = "";
  let stderr = "";
  let rest = "";
  qemu.stdout.on("data", (chunk: Buffer) => {
    const ms = performance.now() - begin;
    const text = chunk.toString("latin1");
    stdout += text;
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line.trim(), ms);
  });
  qemu.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const exitMs = new Promise<number>((resolve) => {
    qemu.child.once("exit", () => resolve(performance.now() - begin));
  });
  const end = await qemu.ended;
  const result = { ...end, stdout, stderr, durationMs: await exitMs };
  if (end.exitCode !== 0) throw new Error(`The floor did not boot: ${outcome(result)}`);
  return result.durationMs;
}

/** Port on the host that the init connects to. */
const rawPort = 1100;

export interface RawVsock extends AsyncDisposable {
  /** The connection with the init, which serves it as `floor-init/init.c` says. */
  readonly socket: Socket;
}

/**
 * Boots a VM that has nothing but the vsock device, through the driver and the backend that sandboxes use (by the
 * configuration's `vsock`; "auto" takes vhost-device-vsock), and returns the connection that its init makes.
 */
export async function startRawVsock(
  options: FloorOptions,
  transferBytes: number,
  signal: AbortSignal,
): Promise<RawVsock> {
  const { config } = options;
  await using cleanup = new Cleanup();
  const initrd = modulesInitrd(options, options.files.initrd);
  const vm = await describeVm(options, "raw", initrd, ["vsock", String(rawPort), String(transferBytes)]);
  mkdirSync(vm.directory, { mode: 0o700 });
  chownSync(vm.directory, vm.user.uid, vm.user.gid);

  const { vsock, connected } =
    config.vsock === "vhost-vsock" ? listenOnVsock(cleanup) : await listenOnBackend(vm, cleanup);

  using limit = scope(signal, bootTimeoutMs, "the boot of the raw vsock floor");
  const driver = createQemuDriver(config);
  const running = await driver.boot({ ...vm, vsock }, { signal: limit.signal, onProcess: () => {} });
  cleanup.defer("VM", () => running[Symbol.asyncDispose]());
  const ended = running.exited.then(({ reason }) => {
    throw new Error(`The raw vsock floor ended: ${reason}; console: ${running.consoleTail().slice(-2000)}`);
  });
  ended.catch(() => {});
  const socket = await abortable(Promise.race([connected, ended]), limit.signal);
  cleanup.defer("connection", () => {
    socket.destroy();
  });
  const owned = cleanup.move();
  return { socket, [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose]() };
}

interface RawListener {
  readonly vsock: VmConfig["vsock"];
  readonly connected: Promise<Socket>;
}

function listenOnVsock(cleanup: Cleanup): RawListener {
  const device = openVhostVsock();
  if (device === undefined) throw new Error("Cannot measure: this kernel has no vhost-vsock");
  cleanup.defer("vhost-vsock", () => device[Symbol.dispose]());
  const server = VsockServer.listen({ port: rawPort });
  cleanup.defer("listener", () => server.close());
  const connected = once(server, "connection").then(([socket]) => socket as Socket);
  return { vsock: { tag: "vhost-vsock", cid: device.cid, fd: device.fd }, connected };
}

async function listenOnBackend({ directory, user }: VmConfig, cleanup: Cleanup): Promise<RawListener> {
  const { promise, resolve } = Promise.withResolvers<Socket>();
  const server = createServer({ pauseOnConnect: true }, resolve);
  const path = join(directory, `${vsockSocketName}_${rawPort}`);
  server.listen(path);
  await once(server, "listening");
  cleanup.defer("listener", () => {
    server.close();
  });
  chownSync(path, user.uid, user.gid);
  return { vsock: { tag: "vhost-device-vsock" }, connected: promise };
}

/** The initrd that a kernel with modules needs: the guest's own, with our init in the place of the agent. */
function modulesInitrd({ config, dir }: FloorOptions, own: string): string {
  const { initrdPath } = findGuestFiles(config);
  if (initrdPath === undefined) return own;
  const path = dir.join(`with-modules-${basename(own)}`);
  writeFileSync(path, Buffer.concat([readFileSync(initrdPath), readFileSync(own)]));
  return path;
}
