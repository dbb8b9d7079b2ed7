/**
 * A process of its own that stands for a process in a guest. Whoever starts it (`create`, `run --detach`, `exec
 * --detach`) ends before it does, and it becomes a child of the caller's sub-reaper: conmon waits for it.
 *
 * Over fd 3, a JSON line each: starter → proxy `ProxyRequest`; proxy → starter `ProxyReply`; starter → proxy `{}` once
 * everything is noted. A proxy whose starter dies before that ends, and its process with it.
 */
import { spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { Socket } from "node:net";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { type Code, codeOf, describe, ignoreCode, RuntimeError } from "../base/errors.ts";
import { minimalEnvironment } from "../base/exec.ts";
import { identify, type ProcessIdentity } from "../base/processes.ts";
import { SignalRelay } from "../client/signal-relay.ts";
import { TaskClient } from "../client/task-client.ts";
import { Handshake } from "../shim/handshake.ts";
import type { Host } from "./host.ts";
import { relayNotifications } from "./notify.ts";
import { noteOomKill } from "./oom-file.ts";
import { processFiles } from "./process-files.ts";
import { StandIn, type View } from "./stand-in.ts";
import { endLike, ProcessProxy, type TerminalKind } from "./proxy.ts";

export const proxyCommand = "proxy";

export interface ProxyRequest {
  readonly address: string;
  /** As the daemon calls it. */
  readonly sandboxId: string;
  readonly terminal: TerminalKind;
  readonly ioDirectory: string;
  /** Socket of the service manager that wants to know what the container says of itself; undefined: nobody. */
  readonly notifySocket?: string | undefined;
  readonly process:
    | {
        readonly tag: "init";
        readonly bundle: string;
        /** What the stand-in shows of the container once it is created; without one we are it. */
        readonly standIn: { readonly pid: number; readonly view: View } | undefined;
        /** Of the process that opens the proxy: what the container's process gets from 3 on. They are closed once it has. */
        readonly descriptors: readonly number[];
        /** NAME=VALUE, in addition to the container's own. */
        readonly environment: readonly string[];
        /** Removes the container when whoever stands for it is killed; empty: it stays. */
        readonly commandAtLoss: readonly string[];
      }
    /** `spec`: an OCI `Process`. It is started, too. `descriptors` as above. */
    | {
        readonly tag: "exec";
        readonly execId: string;
        readonly spec: object;
        readonly descriptors: readonly number[];
      };
}

type ProxyReply =
  | { readonly tag: "ready" }
  | { readonly tag: "failed"; readonly code: Code; readonly message: string };

const handshakeFd = 3;
const standInFd = 4;
/** Behind that of the stand-in. */
const firstHandedFd = 5;

/** A proxy that has not been told anything yet. Disposed before `release`, it ends. */
export interface SpawnedProxy extends AsyncDisposable {
  readonly identity: ProcessIdentity;
  /** Resolves when the process is registered. @throws what the registering failed with */
  open(request: ProxyRequest): Promise<void>;
  /** Everything is noted: lets it live on. */
  release(): Promise<void>;
}

/** The numbers that so many descriptors behind the stand-in's socket have in a proxy. */
export function proxyFds(count: number): number[] {
  return Array.from({ length: count }, (_, index) => firstHandedFd + index);
}

/**
 * In a session of its own, as the first process of a container has one; with our stdio unless it has a terminal. It inherits the
 * socket of the stand-in, if there is one, and behind it what is handed to the process (see `proxyFds`).
 */
export function spawnProxy(
  host: Host,
  containerId: string,
  terminal: TerminalKind,
  inherited: { readonly standIn?: Socket; readonly descriptors?: readonly number[] } = {},
): SpawnedProxy {
  const [file = "", ...args] = host.ownArgv;
  const stdio = terminal.tag === "none" ? "inherit" : "ignore";
  const child = spawn(file, [...args, proxyCommand, containerId], {
    cwd: "/",
    env: minimalEnvironment,
    stdio: [stdio, stdio, stdio, "pipe", inherited.standIn ?? "ignore", ...(inherited.descriptors ?? [])],
    detached: true,
  });
  child.on("error", () => {
    // Its end of the handshake is closed; open() says so.
  });
  child.unref();
  const handshake = new Handshake(child.stdio[handshakeFd] as Duplex);
  let ended: Promise<void> | undefined;
  const end = () => (ended ??= handshake.end());
  return {
    identity: identify(child.pid ?? 0) ?? { pid: child.pid ?? 0, startTicks: "" },
    async open(request) {
      handshake.send(request);
      const reply = await handshake.receive<ProxyReply>();
      if (reply?.tag === "ready") return;
      if (reply === undefined)
        throw new RuntimeError(
          "unavailable",
          `the proxy of container "${containerId}" ended before it served`,
        );
      throw new RuntimeError(reply.code, reply.message);
    },
    async release() {
      handshake.send({});
      await end();
    },
    [Symbol.asyncDispose]: end,
  };
}

/** The proxy's own main program. An exec's returns only when it has come to nothing: it ends as its process did. */
export async function runProxy(): Promise<number> {
  using relay = new SignalRelay();
  const handshake = new Handshake(new Socket({ fd: handshakeFd }));
  const request = await handshake.receive<ProxyRequest>();
  if (request === undefined) return 1;
  let proxy: ProcessProxy;
  let client: TaskClient;
  let standIn: StandIn | undefined;
  try {
    client = await TaskClient.connect(request.address, request.sandboxId);
    proxy = await openProxy(client, request);
    if (request.process.tag === "init" && request.process.standIn !== undefined)
      standIn = await standInFor(client, proxy, request.process.standIn);
    proxy.attach(relay);
  } catch (error) {
    handshake.send({ tag: "failed", code: codeOf(error), message: describe(error) } satisfies ProxyReply);
    await handshake.end();
    return 1;
  }
  handshake.send({ tag: "ready" } satisfies ProxyReply);
  // Ending closes the connection, which ends the process.
  if ((await handshake.receive()) === undefined) return 1;
  await handshake.end();
  const exitCode = await proxy.ended();
  try {
    if (request.process.tag === "init") await noteOomKill(client, request.process.bundle, exitCode);
    proxy[Symbol.dispose]();
    if (request.process.tag === "exec") await forgetExec(client, request.ioDirectory, request.process.execId);
  } catch {
    // Somebody removes the container at the same time.
  }
  if (standIn === undefined) endLike(exitCode);
  await standIn.end(exitCode);
  return 0;
}

/** Whoever kills the stand-in kills the process: our end closes the connection to the daemon. */
async function standInFor(
  client: TaskClient,
  proxy: ProcessProxy,
  { pid, view }: { readonly pid: number; readonly view: View },
): Promise<StandIn> {
  const standIn = new StandIn(pid, standInFd, () => process.exit(1));
  await standIn.enter(view);
  standIn.showProcesses(() => processFiles(client));
  standIn.forwardTo((signal) => void proxy.signal(signal));
  return standIn;
}

/** Stands for the process in this process. */
export async function openProxy(client: TaskClient, request: ProxyRequest): Promise<ProcessProxy> {
  const { terminal, ioDirectory, process: wanted } = request;
  const execId = wanted.tag === "init" ? "" : wanted.execId;
  const register: Parameters<typeof ProcessProxy.open>[0]["register"] = async (stdio) => {
    if (wanted.tag === "init") {
      const never = new AbortController().signal;
      const notify = request.notifySocket !== undefined;
      const { bundle, descriptors, environment } = wanted;
      await client.create({ bundle, rootfs: [], stdio, notify, descriptors, environment }, { signal: never });
      for (const fd of descriptors) closeSync(fd);
      return;
    }
    await client.exec(execId, wanted.spec, stdio, wanted.descriptors);
    for (const fd of wanted.descriptors) closeSync(fd);
    try {
      await client.start(execId);
    } catch (error) {
      await client.delete(execId).catch(() => {
        // The failure of the start is what counts.
      });
      throw error;
    }
  };
  const standInPid = wanted.tag === "init" ? (wanted.standIn?.pid ?? 0) : 0;
  const commandAtLoss = wanted.tag === "init" ? wanted.commandAtLoss : [];
  const own = { client, execId, standInPid, commandAtLoss };
  const proxy = await ProcessProxy.open({ ...own, ioDirectory, terminal, register });
  if (request.notifySocket !== undefined)
    void relayNotifications(client, request.notifySocket, standInPid === 0 ? process.pid : standInPid);
  return proxy;
}

/** Nobody asks for an exec that has ended: neither the daemon nor the note need keep it. */
export async function forgetExec(client: TaskClient, ioDirectory: string, execId: string): Promise<void> {
  await rm(`${ioDirectory}.json`, { force: true });
  await client.delete(execId).catch(ignoreCode("unavailable", "failed_precondition"));
}

/** Notes who stands for an exec, for `ps` and `delete`. */
export async function noteExec(execs: string, execId: string, proxy: ProcessIdentity): Promise<void> {
  await writeFile(join(execs, `${execId}.json`), JSON.stringify(proxy), { mode: 0o600 });
}
