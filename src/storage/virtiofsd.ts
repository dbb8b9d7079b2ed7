import { closeSync, existsSync, readFileSync } from "node:fs";
import { chown } from "node:fs/promises";
import { type Daemon, startDaemon } from "../base/daemon.ts";
import { RuntimeError } from "../base/errors.ts";
import { loadNative } from "../base/native.ts";
import { identify, type ProcessIdentity, signalProcess } from "../base/processes.ts";

export interface VirtiofsdSpec {
  readonly program: string;
  readonly sharedDirectory: string;
  /** Working directory. */
  readonly directory: string;
  /** Where the vhost-user socket is made, at most 107 bytes. */
  readonly socketPath: string;
  /** Owner that the socket gets: the VMM's user. */
  readonly user: { readonly uid: number; readonly gid: number };
}

/**
 * What virtiofsd keeps: it serves files of every owner (chown … setfcap), takes the caller's ids for a request
 * (setuid, setgid), and makes its own mount and pid namespace (sys_admin). It drops the rest of these itself.
 */
const capabilities = [
  "chown",
  "dac_override",
  "dac_read_search",
  "fowner",
  "fsetid",
  "mknod",
  "setfcap",
  "setgid",
  // For dropping the rest from the bounding set.
  "setpcap",
  "setuid",
  "sys_admin",
];

/**
 * virtiofsd as a daemon of ours. It serves from a child, the worker, which ends by itself when QEMU hangs up. A worker that
 * hangs does not, and neither the SIGKILL of its parent nor its parent-death signal (SIGTERM) ends it.
 */
export interface Virtiofsd extends Daemon {
  /** The child, once there is one: for the journal, because after the parent's death nobody could tell whose it was. */
  worker(): ProcessIdentity | undefined;
}

/** The argv of virtiofsd for one shared directory, which listens on the socket that it inherits as fd 3. */
export function planVirtiofsd(spec: VirtiofsdSpec): string[] {
  return [
    spec.program,
    "--fd=3",
    `--shared-dir=${spec.sharedDirectory}`,
    "--sandbox=namespace",
    "--seccomp=kill",
    // Submounts (a rootfs, each volume) get a device number of their own in the guest, so that inode numbers of
    // different host file systems do not collide.
    "--announce-submounts",
    "--cache=auto",
    // Without CAP_SYS_RESOURCE the limit cannot be raised; 0 leaves it as it is.
    "--rlimit-nofile=0",
    "--log-level=warn",
  ];
}

/**
 * Starts virtiofsd. Its socket listens when this returns: it is made here and handed over, so nobody waits for the
 * program to come up. The caller learns from `exited` when it fails.
 *
 * @throws not_found    the program is not there
 * @throws unavailable  it cannot be executed
 */
export async function startVirtiofsd(spec: VirtiofsdSpec): Promise<Virtiofsd> {
  if (!existsSync(spec.program)) {
    throw new RuntimeError(
      "not_found",
      `Cannot start virtiofsd: "${spec.program}" is not there; build it with "make build" or set virtiofsd_path`,
    );
  }
  const listener = loadNative().listenUnix(spec.socketPath);
  try {
    await chown(spec.socketPath, spec.user.uid, spec.user.gid);
    const parent = await startDaemon({
      name: "virtiofsd",
      argv: planVirtiofsd(spec),
      privileges: { capabilities },
      cwd: spec.directory,
      fds: [listener],
    });
    return withWorker(parent);
  } finally {
    closeSync(listener);
  }
}

function withWorker(parent: Daemon): Virtiofsd {
  let known: ProcessIdentity | undefined;
  const worker = () => {
    known ??= childOf(parent.identity.pid);
    return known;
  };
  const stop = async (graceMs: number) => {
    const child = worker();
    await parent.stop(graceMs);
    if (child !== undefined) signalProcess(child, "SIGKILL");
  };
  return {
    ...parent,
    get hasExited() {
      return parent.hasExited;
    },
    worker,
    stop,
    [Symbol.asyncDispose]: () => stop(0),
  };
}

function childOf(pid: number): ProcessIdentity | undefined {
  try {
    const [child = ""] = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
    return child === "" ? undefined : identify(Number(child));
  } catch {
    // It has ended.
    return undefined;
  }
}
