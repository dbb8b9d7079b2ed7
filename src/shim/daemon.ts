import { Socket } from "node:net";
import { codeOf, describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { loadNative } from "../base/native.ts";
import { within } from "../base/scope.ts";
import { TtrpcServer } from "../ttrpc/server.ts";
import { bindService } from "../ttrpc/service.ts";
import { bindSocket } from "./bind-socket.ts";
import { createDaemonLog, LogDestination } from "./daemon-log.ts";
import { toTaskEvent } from "./events.ts";
import { type DaemonReply, type DaemonRequest, Handshake } from "./handshake.ts";
import { Life } from "./life.ts";
import { DaemonMetrics } from "./metrics.ts";
import { type MetricsServer, serveMetrics } from "./metrics-server.ts";
import { metricsSocketPath } from "./metrics-socket.ts";
import { countCalls } from "./metrics-tasks.ts";
import { readSandboxOptions } from "./options.ts";
import type { ShimParts } from "./parts.ts";
import { Publisher } from "./publisher.ts";
import { shimMethods, shimServiceName } from "./shim-api.ts";
import { shimService } from "./shim-service.ts";
import { taskMethods, taskServiceNames } from "./task-api.ts";
import { taskService } from "./task-service.ts";

/** Longest times at the end: for the VM, for events, for answers on their way. */
const closeSandboxTimeoutMs = 3000;
const flushTimeoutMs = 2000;
const closeServerTimeoutMs = 200;
const hangUpTimeoutMs = 1000;

const handshakeFd = 3;

/**
 * The daemon of one sandbox: serves the task API until its last container is gone and it is told to end. Started by
 * `start` only, which tells it everything over fd 3.
 */
export async function runDaemon(parts: ShimParts): Promise<void> {
  const handshake = new Handshake(new Socket({ fd: handshakeFd }));
  const request = await handshake.receive<DaemonRequest>();
  if (request === undefined) process.exit(1);
  try {
    // The first bundle may be gone long before the daemon is.
    process.chdir("/");
    // What containerd or a user's shell left open in us is not for the VM and its helpers.
    loadNative().closeOnExecFrom(handshakeFd);
    const { log, server, openMetrics } = await assemble(request, parts);
    const isBound = await bindSocket(server, request.socketPath);
    handshake.send({ tag: isBound ? "ready" : "taken" } satisfies DaemonReply);
    const isKnown = isBound && (await handshake.receive()) !== undefined;
    await handshake.end();
    if (isKnown) {
      openMetrics();
      log.info({ sandbox: request.sandboxId, pid: process.pid }, "daemon serves");
      return;
    }
    await server.close(0);
  } catch (error) {
    const reply: DaemonReply = { tag: "failed", code: codeOf(error), message: describe(error) };
    handshake.send(reply);
    await handshake.end();
  }
  process.exit(1);
}

async function assemble(
  request: DaemonRequest,
  parts: ShimParts,
): Promise<{ log: Log; server: TtrpcServer; openMetrics: () => void }> {
  const { namespace, sandboxId } = request;
  process.title = `containerd-shim-caisson-v2 -namespace ${namespace} -id ${sandboxId}`;
  const options = request.options && {
    typeUrl: request.options.typeUrl,
    value: Buffer.from(request.options.value, "base64"),
  };
  const { sources, warning } = readSandboxOptions(options);
  const config = await parts.loadConfig(sources);
  const destination = new LogDestination(request.bundle);
  const log = createDaemonLog(request.debug ? "debug" : config.logLevel, destination);
  keepAlive(log);
  if (warning !== undefined) log.warn(warning);

  const publisher = new Publisher({ address: request.ttrpcAddress, namespace, log });
  const metrics = new DaemonMetrics();
  const emit = (event: Parameters<typeof toTaskEvent>[0]) => {
    metrics.onEvent(event);
    // For containers that a daemon leaves behind containerd makes the exit up itself, when the connection closes.
    const isInitExit = event.type === "exit" && event.process.execId === "";
    if (!(isInitExit && life.isEnding)) publisher.publish(toTaskEvent(event));
  };
  const sandbox = await parts.createSandbox({ namespace, sandboxId, config, log, emit, observer: metrics });
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

  const tasks = countCalls(taskMethods, taskService({ sandbox, life, log, options }), metrics);
  // Large, and used by containerd 2 only where it is told to.
  const sandboxServices = request.isSandbox
    ? [(await import("./sandbox-service.ts")).bindSandboxService(sandbox, life)]
    : [];
  const server = new TtrpcServer({
    services: [
      ...sandboxServices,
      ...taskServiceNames.map((name) => bindService(name, taskMethods, tasks)),
      bindService(shimServiceName, shimMethods, shimService(life, sandbox)),
    ],
    onInternalError: (error) =>
      log.error({ stack: error instanceof Error ? error.stack : "" }, describe(error)),
  });
  return { log, server, openMetrics };
}

/** A bug in one call must not end the bookkeeping of every container. */
function keepAlive(log: Log): void {
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (error: unknown) => {
      log.error({ stack: error instanceof Error ? error.stack : "" }, `${event}: ${describe(error)}`);
    });
  }
  process.on("SIGHUP", () => {});
}
