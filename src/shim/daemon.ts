import { Socket } from "node:net";
import { describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { loadNative } from "../base/native.ts";
import { within } from "../base/scope.ts";
import type { ReadyVm } from "../sandbox/ready-vm.ts";
import { TtrpcServer } from "../ttrpc/server.ts";
import { bindService } from "../ttrpc/service.ts";
import { bindSocket } from "./bind-socket.ts";
import { createDaemonLog, LogDestination } from "./daemon-log.ts";
import type { Flags } from "./flags.ts";
import { toTaskEvent } from "./events.ts";
import { type DaemonReply, type DaemonRequest, Handshake } from "./handshake.ts";
import { Life } from "./life.ts";
import { DaemonMetrics } from "./metrics.ts";
import { type MetricsServer, serveMetrics } from "./metrics-server.ts";
import { metricsSocketPath } from "./metrics-socket.ts";
import { countCalls } from "./metrics-tasks.ts";
import { noteContainer, type StartCaller } from "./note.ts";
import { readSandboxOptions } from "./options.ts";
import type { ShimParts } from "./parts.ts";
import { Publisher } from "./publisher.ts";
import type { ReadyLog } from "./ready-log.ts";
import { shimMethods, shimServiceName } from "./shim-api.ts";
import { shimService } from "./shim-service.ts";
import { type Serve, start } from "./start.ts";
import { taskMethods, taskServiceNames } from "./task-api.ts";
import { taskService } from "./task-service.ts";
import { trimOnceSettled } from "./trim.ts";

/** Longest times at the end: for the VM, for events, for answers on their way. */
const closeSandboxTimeoutMs = 3000;
const flushTimeoutMs = 2000;
const closeServerTimeoutMs = 200;
const hangUpTimeoutMs = 1000;

const handshakeFd = 3;

export interface DaemonOptions {
  readonly namespace: string;
  readonly sandboxId: string;
  /** The container that `start` was called for. */
  readonly containerId: string;
  readonly bundle: string;
  /** It is a bundle of the Sandbox API. */
  readonly isSandbox: boolean;
  readonly socketPath: string;
  /** Where events go; empty: nowhere. */
  readonly ttrpcAddress: string;
  readonly debug: boolean;
  /** Runtime options. */
  readonly options: { readonly typeUrl: string; readonly value: Uint8Array } | undefined;
}

interface Assembled {
  readonly log: Log;
  readonly server: TtrpcServer;
  openMetrics(): void;
  /** Once this process has the sandbox. */
  claim(): Promise<void>;
}

/**
 * The daemon of one sandbox: does what `start` was called for, which the launcher tells it over fd 3, and serves the task API
 * until its last container is gone and it is told to end. When another daemon serves the sandbox, it says so and ends.
 */
export async function runDaemon(flags: Flags, parts: ShimParts): Promise<void> {
  const handshake = new Handshake(new Socket({ fd: handshakeFd }));
  const request = await handshake.receive<DaemonRequest>();
  if (request === undefined) process.exit(1);
  // What containerd or a user's shell left open in us is not for the VM and its helpers.
  loadNative().closeOnExecFrom(handshakeFd);
  await serveStart({ handshake, flags, stdin: Buffer.from(request.stdin, "hex") }, parts);
}

/** A `start`, and the launcher that waits for its answer. */
export interface StartCall {
  readonly handshake: Handshake;
  readonly flags: Flags;
  readonly stdin: Uint8Array;
}

/** What a daemon has that was started before there was a sandbox for it. */
export interface ReadyParts {
  readonly ready: ReadyVm;
  readonly metrics: DaemonMetrics;
  readonly log: ReadyLog;
}

/** Does what `start` was called for. Returns when the launcher knows that this daemon serves; else the process ends. */
export async function serveStart(
  { handshake, flags, stdin }: StartCall,
  parts: ShimParts,
  readyParts?: ReadyParts,
): Promise<void> {
  let assembled: Assembled | undefined;
  let isServing = false;
  const serve: Serve = async (options) => {
    assembled ??= await assemble(options, parts, readyParts);
    isServing = await bindSocket(assembled.server, options.socketPath);
    if (isServing) await assembled.claim();
    return isServing;
  };
  try {
    const answer = await start(flags, stdin, parts, serve);
    handshake.send({ tag: "ready", answer: Buffer.from(answer).toString("hex") } satisfies DaemonReply);
    const isKnown = (await handshake.receive()) !== undefined;
    await handshake.end();
    if (isServing && isKnown) {
      assembled?.openMetrics();
      assembled?.log.info({ id: flags.id, pid: process.pid }, "daemon serves");
      trimOnceSettled();
      return;
    }
  } catch (error) {
    handshake.send({ tag: "failed", message: describe(error) } satisfies DaemonReply);
    await handshake.end();
  }
  if (isServing) await assembled?.server.close(0);
  try {
    await readyParts?.ready[Symbol.asyncDispose]();
  } catch {
    // It is in the journal, which the keeper of the pool or `delete` goes by.
  }
  process.exit(1);
}

async function assemble(
  request: DaemonOptions,
  parts: ShimParts,
  readyParts: ReadyParts | undefined,
): Promise<Assembled> {
  const { namespace, sandboxId, socketPath, options } = request;
  process.title = `containerd-shim-caisson-v2 -namespace ${namespace} -id ${sandboxId}`;
  const { sources, warning } = readSandboxOptions(options);
  const config = await parts.loadConfig(sources);
  const destination = new LogDestination(request.bundle);
  const log = createDaemonLog(request.debug ? "debug" : config.logLevel, destination);
  if (readyParts === undefined) keepAlive(log);
  readyParts?.log.writeTo(destination);
  if (warning !== undefined) log.warn(warning);

  const publisher = new Publisher({ address: request.ttrpcAddress, namespace, log });
  const metrics = readyParts?.metrics ?? new DaemonMetrics();
  const emit = (event: Parameters<typeof toTaskEvent>[0]) => {
    metrics.onEvent(event);
    // For containers that a daemon leaves behind containerd makes the exit up itself, when the connection closes.
    const isInitExit = event.type === "exit" && event.process.execId === "";
    if (!(isInitExit && life.isEnding)) publisher.publish(toTaskEvent(event));
  };
  const vms = readyParts?.ready.sourceFor({ namespace, sandboxId });
  const made = { namespace, sandboxId, config, log, emit, observer: metrics };
  const sandbox = await parts.createSandbox(vms === undefined ? made : { ...made, vms });
  let metricsServer: MetricsServer | undefined;
  const openMetrics = () => {
    metricsServer = serveMetrics({
      path: metricsSocketPath(config.stateDirectory, namespace, sandboxId),
      collect: () => metrics.text({ sandbox, publisher, log: destination }),
      log,
    });
  };
  const end = async () => {
    await life.abortCreations();
    const closed = sandbox.close().catch((error: unknown) => log.error(describe(error)));
    await within(closed, closeSandboxTimeoutMs, undefined);
    // One that the sandbox has never taken, because no container came.
    await readyParts?.ready[Symbol.asyncDispose]();
    await publisher.close(flushTimeoutMs);
    log.info({ droppedLines: destination.dropped }, "daemon ends");
    // Before the next daemon of this sandbox can serve: that is when our socket is gone.
    metricsServer?.close();
    // An end that comes at once with the answer makes a failure of ShutdownSandbox in containerd's client.
    if (request.isSandbox) await server.waitForClients(hangUpTimeoutMs);
    await server.close(closeServerTimeoutMs);
  };
  const exitAfterEnd = () => {
    // What a failing end leaves behind is found by `delete` in the journal.
    void end()
      .catch((error: unknown) => log.error(describe(error)))
      .finally(() => process.exit(0));
  };
  const life = new Life({ sandbox, log, onEnd: exitAfterEnd });
  life.announce(request.containerId);
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => life.end());

  const served = { stateDirectory: config.stateDirectory, namespace, sandboxId, socketPath };
  const note = (caller: StartCaller) => noteContainer(served, caller);
  const tasks = countCalls(taskMethods, taskService({ sandbox, life, log, options }), metrics);
  // Large, and used by containerd 2 only where it is told to.
  const sandboxServices = request.isSandbox
    ? [(await import("./sandbox-service.ts")).bindSandboxService(sandbox, life)]
    : [];
  const server = new TtrpcServer({
    services: [
      ...sandboxServices,
      ...taskServiceNames.map((name) => bindService(name, taskMethods, tasks)),
      bindService(shimServiceName, shimMethods, shimService(life, sandbox, note)),
    ],
    onInternalError: (error) =>
      log.error({ stack: error instanceof Error ? error.stack : "" }, describe(error)),
  });
  const claim = async () => {
    await vms?.claim();
  };
  return { log, server, openMetrics, claim };
}

/** A bug in one call must not end the bookkeeping of every container. */
export function keepAlive(log: Log): void {
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (error: unknown) => {
      log.error({ stack: error instanceof Error ? error.stack : "" }, `${event}: ${describe(error)}`);
    });
  }
  process.on("SIGHUP", () => {});
}
