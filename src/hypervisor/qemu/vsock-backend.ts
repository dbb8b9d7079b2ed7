import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Cleanup } from "../../base/cleanup.ts";
import { type Daemon, startDaemon } from "../../base/daemon.ts";
import { codeOf, RuntimeError } from "../../base/errors.ts";
import { watchForFile } from "../../base/file-watch.ts";
import { removeFile } from "../../base/files.ts";
import type { ProcessIdentity } from "../../base/processes.ts";
import { abortable, scope } from "../../base/scope.ts";
import { isListening } from "../../base/unix-sockets.ts";
import { vsockSocketName } from "../hypervisor.ts";
import type { VmConfig } from "../vm-config.ts";
import { openProgram } from "../program.ts";

/** File name in `VmConfig.directory` of the socket on which the backend and QEMU speak vhost-user. */
export const vsockBackendSocketName = "vhost-vsock.sock";

/** Any number from 3 does (0 to 2 are reserved): every VM has a backend of its own, so no other guest is in sight. */
const guestCid = 3;
/** What the guest may send before the host has read: with less it stops more often, with much more the backend stalls. */
const txBufferBytes = 256 * 1024;
const startTimeoutMs = 10_000;
const pollMs = 1;
const name = "vhost-device-vsock";

export interface VsockBackendOptions {
  readonly programPath: string;
  readonly signal: AbortSignal;
  readonly onProcess: (name: string, identity: ProcessIdentity) => void;
}

/** A running backend, owned by the caller. Disposing kills it and removes its sockets. */
export interface VsockBackend extends AsyncDisposable {
  readonly daemon: Daemon;
}

/** The arguments of vhost-device-vsock; paths are relative to the VM's directory, so that they fit into a socket address. */
function planVsockBackend(): string[] {
  return [
    `--guest-cid=${guestCid}`,
    `--socket=${vsockBackendSocketName}`,
    `--uds-path=${vsockSocketName}`,
    `--tx-buffer-size=${txBufferBytes}`,
  ];
}

/**
 * Starts the user-space vsock backend of one VM and returns when QEMU can connect to it.
 *
 * @throws not_found          the program is not there
 * @throws unavailable        it ended before it listened; the message has its last words
 * @throws deadline_exceeded  it does not listen
 */
export async function startVsockBackend(
  config: VmConfig,
  options: VsockBackendOptions,
): Promise<VsockBackend> {
  const { directory, user } = config;
  using limit = scope(options.signal, startTimeoutMs, `the start of ${name}`);
  limit.signal.throwIfAborted();
  await using program = await openProgram(
    name,
    options.programPath,
    'build it with "make build" or set vhost_device_vsock_path',
  );
  await using cleanup = new Cleanup();
  const removeSockets = () => removeAll(directory);
  // What a killed predecessor left would look like a backend that listens, and it would not listen over it.
  await removeSockets();
  cleanup.defer("sockets of the vsock backend", removeSockets);

  using socket = watchForFile(join(directory, vsockBackendSocketName));
  const daemon = await startDaemon({
    name,
    argv: [program.path(3), ...planVsockBackend()],
    privileges: { user, capabilities: [] },
    cwd: directory,
    fds: program.fd === undefined ? [] : [program.fd],
  });
  cleanup.defer(name, () => daemon.stop(0));
  options.onProcess(name, daemon.identity);
  const cannotStart = (code: "unavailable" | "deadline_exceeded") =>
    new RuntimeError(
      code,
      `Cannot start the vsock backend of sandbox "${config.sandboxId}": ${daemon.lastWords()}`,
    );
  const listening = socket.appeared.then(() => listens(daemon, limit.signal));
  const outcome = await abortable(
    Promise.race([listening.then(() => "listening"), daemon.exited.then(() => "ended")]),
    limit.signal,
  ).catch((error: unknown) => {
    // It can fail to bind (no inode is left) and live on.
    throw codeOf(error) === "deadline_exceeded" ? cannotStart("deadline_exceeded") : error;
  });
  if (outcome === "ended") throw cannotStart("unavailable");
  const owned = cleanup.move();
  return { daemon, [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose]() };
}

/**
 * The file of its socket is there from bind() on. listen() is the backend's next system call, but on a busy host it can be some time
 * until then, in which QEMU would be refused; and nothing tells of it.
 */
async function listens(daemon: Daemon, signal: AbortSignal): Promise<void> {
  // One that has ended is told of by `exited`.
  while (!daemon.hasExited && !isListening(daemon.identity.pid, vsockBackendSocketName))
    await sleep(pollMs, undefined, { signal });
}

async function removeAll(directory: string): Promise<void> {
  for (const file of [vsockBackendSocketName, vsockSocketName]) await removeFile(join(directory, file));
}
