import { mkdir, rename, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Cleanup } from "../base/cleanup.ts";
import { writeFileAtomic } from "../base/files.ts";
import { identify, type ProcessIdentity } from "../base/processes.ts";
import { abortable } from "../base/scope.ts";
import { formatConfig } from "../client/settings.ts";
import { deleteShim, startShim } from "../client/shim-program.ts";
import { sandboxPaths } from "../sandbox/paths.ts";
import { SignalRelay } from "../client/signal-relay.ts";
import { TaskClient } from "../client/task-client.ts";
import { settleAll } from "../base/settle.ts";
import { type Bundle, openBundle } from "./bundle.ts";
import { enterCgroup, removeCgroup } from "./cgroup.ts";
import { endContainer } from "./delete.ts";
import { type HandedFiles, handedFiles } from "./descriptors.ts";
import { type Host, requireRoot, shimOf } from "./host.ts";
import { notifySocketOf } from "./notify.ts";
import { joinedSandbox, noteSandbox } from "./pod.ts";
import type { ProcessProxy, TerminalKind } from "./proxy.ts";
import { openProxy, proxyFds, type ProxyRequest, spawnProxy } from "./proxy-process.ts";
import type { ContainerPaths, ContainerRecord } from "./store.ts";
import { spawnStandIn, viewOf } from "./stand-in.ts";
import { terminalKind } from "./terminal-kind.ts";

export interface CreateOptions {
  readonly id: string;
  readonly bundle: string | undefined;
  readonly consoleSocket: string | undefined;
  readonly pidFile: string | undefined;
  readonly preserveFds: number;
}

export interface RunOptions extends CreateOptions {
  readonly detached: boolean;
  /** Leave the container there when it has ended. */
  readonly keep: boolean;
}

/** `create`: the container is ready to be started, and a proxy of its own stands for it. */
export async function create(host: Host, options: CreateOptions): Promise<number> {
  using relay = new SignalRelay();
  await using cleanup = new Cleanup();
  const prepared = await prepare(host, options, { isDetached: true, isRemoved: false, cleanup });
  await createDetached(host, options, prepared, relay.aborted);
  cleanup.move();
  return 0;
}

/** `run`. In the foreground this process itself is the proxy, and the container goes when it ends. */
export async function run(host: Host, options: RunOptions): Promise<number> {
  using relay = new SignalRelay();
  // Closed last: the daemon takes it for our end.
  await using connection = new Cleanup();
  await using cleanup = new Cleanup();
  const prepared = await prepare(host, options, {
    isDetached: options.detached,
    isRemoved: !options.detached && !options.keep,
    cleanup,
  });
  if (options.detached) {
    const address = await createDetached(host, options, prepared, relay.aborted);
    await using client = await TaskClient.connect(address, prepared.sandboxId);
    await client.start("");
    cleanup.move();
    return 0;
  }
  const client = await connect(host, prepared, relay.aborted);
  connection.defer("the connection to the daemon", () => client.connected[Symbol.asyncDispose]());
  const request = requestOf(host, prepared, client.address);
  const proxy = await createHere(client.connected, request, relay);
  cleanup.defer("the stdio", () => proxy[Symbol.dispose]());
  await note(host, options, prepared, { address: client.address, proxy: ownIdentity() });
  await client.connected.start("");
  const exitCode = await proxy.ended();
  relay.stopForwarding();
  proxy[Symbol.dispose]();
  // From here on it has run: what fails now is reported, not undone.
  cleanup.move();
  if (!options.keep) await endContainer(host, options.id, client.connected);
  return exitCode;
}

interface Prepared {
  readonly id: string;
  readonly sandboxId: string;
  readonly bundle: Bundle;
  readonly paths: ContainerPaths;
  readonly terminal: TerminalKind;
  readonly files: HandedFiles;
  /** It goes with this process. */
  readonly isRemoved: boolean;
}

/** Everything up to the daemon: what cannot be done is said before anything is made. */
async function prepare(
  host: Host,
  options: CreateOptions,
  {
    isDetached,
    isRemoved,
    cleanup,
  }: Pick<Prepared, "isRemoved"> & {
    readonly isDetached: boolean;
    readonly cleanup: Cleanup;
  },
): Promise<Prepared> {
  const { id } = options;
  requireRoot();
  host.containers.checkOutside(host.config.stateDirectory);
  const files = handedFiles(host.environment, options.preserveFds);
  host.containers.paths(id);
  const bundle = await openBundle(options.bundle);
  const { process: wanted } = bundle.spec;
  const terminal = terminalKind({
    terminal: wanted?.terminal ?? false,
    consoleSocket: options.consoleSocket,
    detached: isDetached,
  });
  const joined = await joinedSandbox(host, bundle.spec);
  const paths = await host.containers.claim(id);
  cleanup.defer(`container "${id}"`, () => host.containers.remove(id));
  // A creation that is killed leaves something that can be listed and deleted.
  await host.containers.save(recordOf(id, bundle, { address: "", proxy: ownIdentity() }));
  await writeFileAtomic(paths.config, formatConfig(host.config));
  cleanup.defer("the cgroup", () => removeCgroup(paths.cgroups));
  for (const directory of [paths.shim, paths.execs]) await mkdir(directory, { mode: 0o700 });
  if (joined !== undefined) await noteSandbox(paths.shim, joined);
  cleanup.defer("the daemon", () => deleteShim(shimOf(host, id)));
  const { sandboxId } = host.containers.sandboxName(id);
  return { id, sandboxId, bundle, paths, terminal, files, isRemoved };
}

/** Returns the daemon's address. */
async function createDetached(
  host: Host,
  options: CreateOptions,
  prepared: Prepared,
  signal: AbortSignal,
): Promise<string> {
  const { id, terminal, files } = prepared;
  const { spec } = prepared.bundle;
  using standIn = await spawnStandIn(host, spec.process?.args ?? []);
  // Node takes its time to start: both at once.
  await using proxy = spawnProxy(host, id, terminal, {
    standIn: standIn.socket,
    descriptors: files.descriptors,
  });
  const [address] = await settleAll([
    startShim(shimOf(host, id), { signal }),
    enterCgroup(spec, host.config, standIn.identity.pid, prepared.paths.cgroups),
  ]);
  await abortable(proxy.open(requestOf(host, prepared, address, standIn.identity.pid)), signal);
  await note(host, options, prepared, { address, proxy: standIn.identity });
  await proxy.release();
  return address;
}

async function connect(
  host: Host,
  { id, sandboxId }: Prepared,
  signal: AbortSignal,
): Promise<{ readonly address: string; readonly connected: TaskClient }> {
  const address = await startShim(shimOf(host, id), { signal });
  return { address, connected: await TaskClient.connect(address, sandboxId) };
}

async function createHere(
  client: TaskClient,
  request: ProxyRequest,
  relay: SignalRelay,
): Promise<ProcessProxy> {
  const opened = openProxy(client, request);
  const proxy = await abortable(opened, relay.aborted);
  proxy.attach(relay);
  return proxy;
}

function requestOf(host: Host, prepared: Prepared, address: string, standInPid?: number): ProxyRequest {
  const { id, sandboxId, terminal, paths, bundle, files } = prepared;
  const { namespace } = host.containers.sandboxName(id);
  const named = bundle.spec.linux?.namespaces?.find(({ type }) => type === "network")?.path;
  const netnsPath = named || sandboxPaths(host.config.stateDirectory, namespace, sandboxId).netns;
  const standIn = standInPid === undefined ? undefined : { pid: standInPid, view: viewOf(bundle, netnsPath) };
  const descriptors = standInPid === undefined ? files.descriptors : proxyFds(files.descriptors.length);
  const { environment } = files;
  const commandAtLoss = prepared.isRemoved ? removalOf(host, id) : [];
  const own = { tag: "init", bundle: bundle.path, standIn, commandAtLoss } as const;
  const process = { ...own, descriptors, environment };
  const notifySocket = notifySocketOf(host.environment, bundle.spec);
  return { address, sandboxId, terminal, ioDirectory: paths.io, notifySocket, process };
}

/** The command that removes a container whatever its state. */
function removalOf({ ownArgv, containers }: Host, id: string): string[] {
  return [...ownArgv, "--root", containers.root, "delete", "--force", id];
}

/** The container is there; tells its pid. */
async function note(
  host: Host,
  { id, pidFile }: CreateOptions,
  { bundle }: Prepared,
  where: Pick<ContainerRecord, "address" | "proxy">,
): Promise<void> {
  await host.containers.save(recordOf(id, bundle, where));
  if (pidFile !== undefined) await writePidFile(pidFile, where.proxy.pid);
}

function recordOf(
  id: string,
  { spec, path, rootfs }: Bundle,
  where: Pick<ContainerRecord, "address" | "proxy">,
): ContainerRecord {
  return {
    id,
    ociVersion: spec.ociVersion,
    bundle: path,
    rootfs,
    createdAt: new Date().toISOString(),
    annotations: spec.annotations ?? {},
    ...where,
  };
}

function ownIdentity(): ProcessIdentity {
  return identify(process.pid) ?? { pid: process.pid, startTicks: "" };
}

/** In one step: whoever waits for the file finds the whole pid in it. */
export async function writePidFile(path: string, pid: number): Promise<void> {
  const unfinished = join(dirname(path), `.${basename(path)}`);
  await writeFile(unfinished, String(pid), { mode: 0o666 });
  await rename(unfinished, path);
}
