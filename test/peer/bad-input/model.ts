/** The real model with a guest that the test plays: nothing of it is a VM, everything around it is as ever. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createServer, connect, type Socket } from "node:net";
import { join } from "node:path";
import { pino } from "pino";
import { identify } from "../../../src/base/processes.ts";
import { loadConfig } from "../../../src/config/load.ts";
import type { Config } from "../../../src/config/config.ts";
import { fixedVm } from "../../../src/hypervisor/running-vm.ts";
import type { Hypervisor, RunningVm, VmExit } from "../../../src/hypervisor/hypervisor.ts";
import type { VmConfig } from "../../../src/hypervisor/vm-config.ts";
import type { CreateContainerRequest, Sandbox, SandboxEvent } from "../../../src/sandbox/model.ts";
import { createSandbox } from "../../../src/sandbox/sandbox.ts";
import { buildPath } from "../../support/cli-build.ts";
import { type FakeAgent, type FakeAgentOptions, startFakeAgent } from "../../support/fake-agent.ts";
import { served } from "../../support/share-server.ts";
import { createTempDir, mountsBelow, type TempDir } from "../../support/temp-dir.ts";

export const goodSpec = {
  ociVersion: "1.1.0",
  process: { args: ["true"], cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } },
  root: { path: "rootfs" },
  linux: { namespaces: ["mount", "pid", "ipc", "uts", "network"].map((type) => ({ type })) } as object,
};

/** The guest as the test wants it. */
export interface Guest extends Omit<FakeAgentOptions, "path"> {
  /** What it says on the ready port. Default: that it is ready. */
  readonly ready?: string;
}

export interface Model extends AsyncDisposable {
  readonly dir: TempDir;
  readonly sandbox: Sandbox;
  readonly bundle: string;
  /** In the order in which they were emitted. */
  readonly events: readonly string[];
  /** The guest that was booted last. */
  readonly agent: FakeAgent;
  /** How many VMs were booted so far. */
  readonly boots: number;
  /** Kills the VM that was booted last. */
  endVm(): Promise<void>;
  /** Announces the container that `create` makes. */
  prepare(spec?: string | object): void;
  /** Where the host would listen for it. */
  readonly readyPath: string;
  create(changes?: {
    readonly spec?: string | object;
    readonly request?: Partial<CreateContainerRequest>;
  }): ReturnType<Sandbox["createContainer"]>;
  /** Writes to the host's end of the control connection in the agent's place. */
  interject(bytes: Uint8Array): void;
  /** What the sandbox holds on the host. */
  leftovers(): string[];
}

export function createModel(guest: Guest = {}, settings: Partial<Config> = {}): Model {
  const dir = createTempDir();
  for (const name of ["state", "guest", "bundle", "bundle/rootfs"]) mkdirSync(dir.join(name));
  writeFileSync(dir.join("bundle", "rootfs", "file"), "");
  for (const name of ["vmlinux", "initrd", "image.erofs"]) writeFileSync(dir.join("guest", name), "");
  const config: Config = {
    ...loadConfig({ environment: {}, executableDirectory: "/nowhere" }),
    stateDirectory: dir.join("state"),
    guestDirectory: dir.join("guest"),
    virtiofsdPath: buildPath("libexec/virtiofsd"),
    accel: "tcg",
    bootTimeoutMs: 5_000,
    agentCallTimeoutMs: 3_000,
    ...settings,
  };
  const events: string[] = [];
  const vms: FakeVm[] = [];
  const hypervisor: Hypervisor = {
    name: "qemu",
    vsockTransports: ["vhost-device-vsock"],
    boot: async (vmConfig) => {
      const vm = await bootFakeVm(vmConfig, guest);
      vms.push(vm);
      return vm;
    },
  };
  const sandbox = createSandbox({
    namespace: dir.token,
    sandboxId: "s1",
    config,
    hypervisor,
    log: pino({ level: "silent" }),
    emit: (event) => events.push(nameOf(event)),
  });
  const last = () => {
    const vm = vms.at(-1);
    if (vm === undefined) throw new Error("No VM was booted");
    return vm;
  };
  const writeSpec = (spec: string | object) => {
    const text = typeof spec === "string" ? spec : JSON.stringify({ ...goodSpec, ...spec });
    writeFileSync(dir.join("bundle", "config.json"), text);
  };
  return {
    dir,
    sandbox,
    bundle: dir.join("bundle"),
    events,
    get agent() {
      return last().agent;
    },
    get boots() {
      return vms.length;
    },
    endVm: () => last().stop({ graceMs: 0 }),
    prepare: (spec = {}) => {
      writeSpec(spec);
      sandbox.prepare({ containerId: "c1", bundle: dir.join("bundle") });
    },
    readyPath: dir.join("state", dir.token, "s1", "vm", "vsock_1026"),
    create: ({ spec = {}, request = {} } = {}) => {
      writeSpec(spec);
      return sandbox.createContainer(
        {
          containerId: "c1",
          bundle: dir.join("bundle"),
          rootfs: [],
          stdio: { stdin: "", stdout: "", stderr: "", terminal: false },
          noPivotRoot: false,
          ...request,
        },
        { signal: AbortSignal.timeout(20_000) },
      );
    },
    interject: (bytes) => {
      for (const socket of last().hostSockets) socket.write(bytes);
    },
    leftovers: () => [
      ...readdirSync(dir.join("state"), { recursive: true, encoding: "utf8" }).filter(
        (name) => name !== ".user-ids",
      ),
      ...mountsBelow(dir.path),
    ],
    [Symbol.asyncDispose]: async () => {
      await sandbox.close();
      for (const vm of vms) await vm[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

interface FakeVm extends RunningVm {
  readonly agent: FakeAgent;
  /** Connections of the host to the vsock backend. */
  readonly hostSockets: ReadonlySet<Socket>;
}

/** A hybrid vsock socket in `directory`, in front of a fake agent: what passes through can be tampered with. */
async function bootFakeVm(
  { directory, nics, shares }: VmConfig,
  { ready = "READY 1\n", ...options }: Guest,
): Promise<FakeVm> {
  // As a VMM would, it has the taps, and a connection to each server of a share.
  const taps = nics.map(({ tapFd }) => tapFd);
  const clients = shares.map(({ socketName }) => connect(join(directory, socketName)));
  await Promise.all(clients.map(served));
  const holder = spawn("sleep", ["1000"], { stdio: ["ignore", "ignore", "ignore", ...taps] });
  const agent: FakeAgent = await startFakeAgent({
    path: join(directory, "agent"),
    ...options,
    handlers: {
      // As the real one: who is killed ends.
      SignalProcess: ({ containerId }) => {
        void agent.emit({ exit: { containerId: String(containerId), execId: "", exitStatus: 137 } });
        return {};
      },
      ...options.handlers,
    },
  });
  const hostSockets = new Set<Socket>();
  const front = createServer((host) => {
    const guest = connect(join(directory, "agent"));
    hostSockets.add(host);
    for (const socket of [host, guest]) socket.on("error", () => {});
    host.pipe(guest).pipe(host);
    host.once("close", () => {
      hostSockets.delete(host);
      guest.destroy();
    });
    guest.once("close", () => host.destroy());
  });
  await new Promise<void>((resolve) => front.listen(join(directory, "vsock"), resolve));
  const exited = Promise.withResolvers<VmExit>();
  const end = async () => {
    exited.resolve({ reason: "the fake VM was stopped", exit: { exitCode: 0, signal: null } });
    for (const socket of hostSockets) socket.destroy();
    front.close();
    for (const client of clients) client.destroy();
    holder.kill("SIGKILL");
    if (holder.exitCode === null && holder.signalCode === null) await once(holder, "exit");
    await agent[Symbol.asyncDispose]();
  };
  if (ready !== "") {
    const socket = connect(join(directory, "vsock_1026"), () => socket.write(ready));
    socket.on("error", () => {});
  }
  let ended: Promise<void> | undefined;
  const stop = () => (ended ??= end());
  return {
    agent,
    hostSockets,
    // Somebody who lives; never journalled, so never killed.
    identity: identify(process.pid) ?? { pid: process.pid, startTicks: "" },
    exited: exited.promise,
    processes: new Map(),
    consoleTail: () => "",
    ...fixedVm("it is a fake"),
    save: () => Promise.reject(new Error("It is a fake")),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

function nameOf(event: SandboxEvent): string {
  const id = event.container.id;
  if (event.type === "exit") return `exit ${id} ${event.process.execId || "-"} ${event.exit.exitCode}`;
  return `${event.type} ${id}`;
}
