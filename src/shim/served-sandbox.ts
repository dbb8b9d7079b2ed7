import { describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { within } from "../base/scope.ts";
import { TtrpcServer } from "../ttrpc/server.ts";
import { bindService } from "../ttrpc/service.ts";
import { createDaemonLog, LogDestination } from "./daemon-log.ts";
import type { DaemonProcess } from "./daemon-process.ts";
import { toTaskEvent } from "./events.ts";
import { Life } from "./life.ts";
import { DaemonMetrics } from "./metrics.ts";
import { type MetricsServer, serveMetrics } from "./metrics-server.ts";
import { metricsSocketPath } from "./metrics-socket.ts";
import { countCalls } from "./metrics-tasks.ts";
import { noteContainer, type StartCaller } from "./note.ts";
import { readSandboxOptions } from "./options.ts";
import type { Environment, ShimParts } from "./parts.ts";
import { Publisher } from "./publisher.ts";
import type { ReadyParts } from "./ready-parts.ts";
import { shimMethods, shimServiceName } from "./shim-api.ts";
import { shimService } from "./shim-service.ts";
import { taskMethods, taskServiceNames } from "./task-api.ts";
import { taskService } from "./task-service.ts";

/** Longest times at the end: for the VM, for events, for answers on their way. */
const closeSandboxTimeoutMs = 3000;
const flushTimeoutMs = 2000;
const closeServerTimeoutMs = 200;
const hangUpTimeoutMs = 1000;

export interface SandboxRequest {
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

/** A sandbox with everything that serves it, all of which is its own: the process can have others. */
export interface ServedSandbox {
  readonly id: string;
  /** Whether it was told to end, or has decided so. */
  readonly isEnding: boolean;
  readonly log: Log;
  /** Nobody listens to it yet. */
  readonly server: TtrpcServer;
  /** Once this process has the sandbox. */
  claim(): Promise<void>;
  /** Once the process is where it shall be, which the VM then is, too: the container will be asked for in a moment. */
  prepare(): void;
  /** Once it is known who serves it. */
  openMetrics(): void;
  /** Ends it, with its containers. Safe to call twice. */
  end(): void;
  /** Resolves when nothing is left of it, but for what `delete` finds in the journal after a failure. Never rejects. */
  readonly ended: Promise<void>;
  /** Resolves when nothing of it is under way any more, which can be later: its VM hangs. Never rejects. */
  readonly released: Promise<void>;
}

export interface Assembly {
  readonly parts: ShimParts;
  readonly daemon: DaemonProcess;
  /** Of whoever called `start`. */
  readonly environment: Environment;
  readonly ready: ReadyParts | undefined;
  /** When `start` came in, on the clock of `performance.now()`; 0: with the process. */
  readonly originMs: number;
}

/** Makes a sandbox, without a VM, and what serves it. It ends when its `Life` says so. */
export async function assembleSandbox(
  request: SandboxRequest,
  { parts, daemon, environment, ready, originMs }: Assembly,
): Promise<ServedSandbox> {
  const { namespace, sandboxId, socketPath, options } = request;
  const { sources, warning } = readSandboxOptions(options);
  const config = await parts.loadConfig(sources, environment);
  const destination = new LogDestination(request.bundle);
  const log = createDaemonLog(request.debug ? "debug" : config.logLevel, destination);
  ready?.log.writeTo(destination);
  if (warning !== undefined) log.warn(warning);

  const publisher = new Publisher({ address: request.ttrpcAddress, namespace, log });
  const metrics = ready?.metrics ?? new DaemonMetrics();
  const emit = (event: Parameters<typeof toTaskEvent>[0]) => {
    metrics.onEvent(event);
    // For containers that a daemon leaves behind containerd makes the exit up itself, when the connection closes.
    const isInitExit = event.type === "exit" && event.process.execId === "";
    if (!(isInitExit && life.isEnding)) publisher.publish(toTaskEvent(event));
  };
  const vms = ready?.ready.sourceFor({ namespace, sandboxId });
  const made = { namespace, sandboxId, config, log, emit, observer: metrics };
  const sandbox = await parts.createSandbox(
    vms === undefined ? { ...made, originMs } : { ...made, originMs, vms },
  );
  let metricsServer: MetricsServer | undefined;
  const openMetrics = () => {
    metricsServer = serveMetrics({
      path: metricsSocketPath(config.stateDirectory, namespace, sandboxId),
      collect: () =>
        metrics.text({ sandbox, publisher, log: destination, sandboxCount: daemon.sandboxCount }),
      log,
    });
  };
  const ended = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  let closed = Promise.resolve();
  const end = async () => {
    await life.abortCreations();
    closed = sandbox.close().catch((error: unknown) => log.error(describe(error)));
    await within(closed, closeSandboxTimeoutMs, undefined);
    // One that the sandbox has never taken, because no container came.
    await ready?.ready[Symbol.asyncDispose]();
    await publisher.close(flushTimeoutMs);
    log.info({ droppedLines: destination.dropped }, "daemon ends");
    // Before the next daemon of this sandbox can serve: that is when our socket is gone.
    metricsServer?.close();
    // An end that comes at once with the answer makes a failure of ShutdownSandbox in containerd's client.
    if (request.isSandbox) await server.waitForClients(hangUpTimeoutMs);
    await server.close(closeServerTimeoutMs);
  };
  const life = new Life({
    sandbox,
    log,
    onEnd: () => {
      // What a failing end leaves behind is found by `delete` in the journal.
      void end()
        .catch((error: unknown) => log.error(describe(error)))
        .finally(() => {
          ended.resolve();
          void closed.then(() => {
            destination.close();
            released.resolve();
          });
        });
    },
  });
  life.announce(request.containerId);

  const { stateDirectory } = config;
  const served = { stateDirectory, namespace, sandboxId, socketPath, servesMany: daemon.servesMany };
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
      bindService(shimServiceName, shimMethods, shimService({ life, sandbox, note, environment })),
    ],
    onInternalError: (error) =>
      log.error({ stack: error instanceof Error ? error.stack : "" }, describe(error)),
  });
  const claim = async () => {
    await vms?.claim();
  };
  const prepare = () => {
    // Of a bundle of the Sandbox API more is said with the calls than in the bundle.
    if (!request.isSandbox) sandbox.prepare({ containerId: request.containerId, bundle: request.bundle });
  };
  return {
    id: sandboxId,
    get isEnding() {
      return life.isEnding;
    },
    log,
    server,
    claim,
    prepare,
    openMetrics,
    end: () => life.end(),
    ended: ended.promise,
    released: released.promise,
  };
}
