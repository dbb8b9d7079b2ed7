import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Cleanup } from "../base/cleanup.ts";
import type { ExitStatus, Stdio } from "../sandbox/model.ts";
import { sandboxPaths } from "../sandbox/paths.ts";
import { type Phase, Timeline } from "../sandbox/timeline.ts";
import { loadNative } from "../base/native.ts";
import { attach } from "./attach.ts";
import { planContainer, type RunOptions } from "./container-plan.ts";
import type { ContainerPaths } from "./container-store.ts";
import { createContainer, type CreatedContainer } from "./create.ts";
import { commandFailure } from "./failure.ts";
import { type Host, namespace, requireRoot } from "./host.ts";
import { openImage } from "../image/store.ts";
import { ProcessIo } from "../client/process-io.ts";
import { SignalRelay } from "../client/signal-relay.ts";
import { fileSink } from "../client/sinks.ts";
import { endTask, settle } from "./task-end.ts";
import { checkTerminal } from "./terminal.ts";
import { readDaemonPhases, reportTimeline } from "./timeline-report.ts";
import { handOver } from "./wait.ts";

/** `caisson run`. Returns the exit code. */
export async function run(host: Host, options: RunOptions): Promise<number> {
  requireRoot();
  if (!options.detached) checkTerminal(options);
  using relay = new SignalRelay();
  const signal = relay.aborted;
  const timeline = new Timeline();
  timeline.add("program", 0, performance.now());
  host.containers.paths(options.containerId);
  const image = await timeline.measure("image", () =>
    openImage(options.image, {
      imagesDirectory: join(host.config.dataDirectory, "images"),
      signal,
      showsProgress: true,
      report: (text) => process.stderr.write(`caisson: ${text}\n`),
      environment: process.env,
    }),
  );
  const plan = await planContainer(options, image);
  await using cleanup = new Cleanup();
  const create = { options, image, plan, cleanup, timeline, signal };
  if (options.detached) {
    const openStdio = (paths: ContainerPaths) => detachedStdio(paths, options);
    const created = await createContainer(host, { ...create, openStdio });
    return await runDetached(host, { created, options, cleanup, timeline });
  }
  let io: ProcessIo | undefined;
  const openStdio = (paths: ContainerPaths) => {
    io = openForeground(paths, options, cleanup);
    return io.stdio;
  };
  const created = await createContainer(host, { ...create, openStdio });
  if (io === undefined) throw new Error("Cannot attach to the container: it was made without stdio");
  return await runAttached(host, { created, io, relay, options, cleanup, timeline });
}

interface Detached {
  readonly created: CreatedContainer;
  readonly options: RunOptions;
  readonly cleanup: Cleanup;
  readonly timeline: Timeline;
}

interface Attached extends Detached {
  readonly io: ProcessIo;
  readonly relay: SignalRelay;
}

/** From Start to the removal of everything but the record. */
async function runAttached(host: Host, attached: Attached): Promise<number> {
  const { created, io, relay, options, cleanup, timeline } = attached;
  const { client, keeper, record } = created;
  const { interactive, terminal, containerId } = options;
  const { hurried } = keeper;
  io.releaseHolds();
  const beginStart = performance.now();
  let beginRun = beginStart;
  const onStarted = async () => {
    beginRun = performance.now();
    timeline.add("start", beginStart, beginRun - beginStart);
    // It has run: from here on its end is recorded instead of undone.
    cleanup.move();
  };
  let exit: ExitStatus | undefined;
  try {
    exit = await attach({ client, execId: "", io, relay, interactive, terminal, hurried, onStarted }).catch(
      (error: unknown) => {
        throw commandFailure(error, record.args[0] ?? "");
      },
    );
    timeline.add("run", beginRun, performance.now() - beginRun);
  } finally {
    if (beginRun !== beginStart) {
      const daemonPhases = await daemonPhasesOf(host, containerId);
      io[Symbol.dispose]();
      const known = await endTask(host, containerId, client, timeline);
      await settle(host, record, exit ?? { exitCode: known, exitedAt: new Date() });
      await keeper[Symbol.asyncDispose]();
      await reportTimeline(timeline.phases, daemonPhases, options);
    }
  }
  return exit.exitCode;
}

/** A foreground container's output is kept for `logs` too, unless it is removed at the end anyway. */
function openForeground(paths: ContainerPaths, options: RunOptions, cleanup: Cleanup): ProcessIo {
  const { interactive, terminal } = options;
  const log = options.autoRemove ? undefined : openSync(paths.log, "ax", 0o600);
  if (log !== undefined) cleanup.defer("the log", () => closeSync(log));
  const io = new ProcessIo({
    directory: paths.io,
    stdin: interactive,
    terminal,
    ...(log === undefined ? {} : { log: fileSink(log) }),
  });
  cleanup.defer("the FIFOs", () => io[Symbol.dispose]());
  return io;
}

/**
 * Output goes to a file. With `-i` stdin is a FIFO that the shim itself holds open, so that an interactive shell waits
 * in it without an end.
 */
function detachedStdio(paths: ContainerPaths, options: RunOptions): Stdio {
  closeSync(openSync(paths.log, "ax", 0o600));
  const uri = pathToFileURL(paths.log).href;
  const stdin = options.interactive ? `${paths.directory}/stdin` : "";
  if (stdin !== "") loadNative().makeFifo(stdin, 0o600);
  return { stdin, stdout: uri, stderr: options.terminal ? "" : uri, terminal: options.terminal };
}

async function runDetached(host: Host, { created, options, cleanup, timeline }: Detached): Promise<number> {
  const { client, record, keeper } = created;
  const started = timeline.measure("start", () => client.start(""));
  await started.catch((error: unknown) => {
    throw commandFailure(error, record.args[0] ?? "");
  });
  await handOver(host, record.id);
  cleanup.move();
  await client[Symbol.asyncDispose]();
  await keeper[Symbol.asyncDispose]();
  await reportTimeline(timeline.phases, await daemonPhasesOf(host, record.id), options);
  process.stdout.write(`${record.id}\n`);
  return 0;
}

/** The daemon's part of the timeline, which goes with the sandbox. */
function daemonPhasesOf(host: Host, containerId: string): Promise<Phase[]> {
  return readDaemonPhases(sandboxPaths(host.config.stateDirectory, namespace, containerId).timeline);
}
