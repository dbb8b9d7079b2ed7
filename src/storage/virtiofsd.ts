import { existsSync } from "node:fs";
import { chown } from "node:fs/promises";
import { join } from "node:path";
import { type Daemon, startDaemon } from "../base/daemon.ts";
import { RuntimeError } from "../base/errors.ts";
import { watchForFile } from "../base/file-watch.ts";
import { abortable } from "../base/scope.ts";

export interface VirtiofsdSpec {
  readonly program: string;
  readonly sharedDirectory: string;
  /** Directory of the VM; the socket is made in it. */
  readonly directory: string;
  /** File name of the vhost-user socket in `directory`. */
  readonly socketName: string;
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
  "setuid",
  "sys_admin",
];

/** The argv of virtiofsd for one shared directory. The socket's path is relative to its working directory. */
export function planVirtiofsd(spec: VirtiofsdSpec): string[] {
  return [
    spec.program,
    `--socket-path=${spec.socketName}`,
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
 * Starts virtiofsd and returns when its socket is there.
 *
 * @throws not_found    the program is not there
 * @throws unavailable  it ended before it listened; the message has its last words
 */
export async function startVirtiofsd(spec: VirtiofsdSpec, signal: AbortSignal): Promise<Daemon> {
  if (!existsSync(spec.program)) {
    throw new RuntimeError(
      "not_found",
      `Cannot start virtiofsd: "${spec.program}" is not there; build it with "make build" or set virtiofsd_path`,
    );
  }
  const socketPath = join(spec.directory, spec.socketName);
  using socket = watchForFile(socketPath);
  const daemon = await startDaemon({
    name: "virtiofsd",
    argv: planVirtiofsd(spec),
    privileges: { capabilities },
    cwd: spec.directory,
  });
  try {
    const outcome = await abortable(
      Promise.race([
        socket.appeared.then(() => "listening" as const),
        daemon.exited.then(() => "ended" as const),
      ]),
      signal,
    );
    if (outcome === "ended") {
      throw new RuntimeError("unavailable", `Cannot start virtiofsd: ${daemon.lastWords()}`);
    }
    await chown(socketPath, spec.user.uid, spec.user.gid);
    return daemon;
  } catch (error) {
    await daemon.stop(0);
    throw error;
  }
}
