/**
 * Open files that a caller hands to a container's first process: the sockets of a service manager (sd_listen_fds(3)) and those of
 * `--preserve-fds`, in this order from descriptor 3 on.
 */
import { RuntimeError } from "../base/errors.ts";
import { guestDescriptorOf, maxDescriptors } from "../sandbox/descriptors.ts";

/** Number of the first one, here and in the container. */
const firstFd = 3;

export interface HandedFiles {
  /** Their numbers in this process. */
  readonly descriptors: readonly number[];
  /** NAME=VALUE: what tells the process of them. */
  readonly environment: readonly string[];
}

/**
 * What our own descriptors are to become.
 *
 * @throws unimplemented       a kind that cannot cross into a VM
 * @throws invalid_argument    one that is not open
 * @throws resource_exhausted  too many
 */
export function handedFiles(
  environment: Readonly<Record<string, string | undefined>>,
  preserveFds: number,
): HandedFiles {
  const listenFds = listenCount(environment);
  const count = listenFds + preserveFds;
  if (count > maxDescriptors) {
    throw new RuntimeError(
      "resource_exhausted",
      `cannot hand ${count} open files to a container: at most ${maxDescriptors}`,
    );
  }
  const descriptors = Array.from({ length: count }, (_, index) => firstFd + index);
  for (const fd of descriptors) {
    const source = fd - firstFd < listenFds ? "LISTEN_FDS" : "--preserve-fds";
    guestDescriptorOf(fd, `file descriptor ${fd} (of ${source})`);
  }
  if (listenFds === 0) return { descriptors, environment: [] };
  const { LISTEN_FDNAMES: names } = environment;
  return {
    descriptors,
    environment: [
      `LISTEN_FDS=${listenFds}`,
      // The container's first process, as runc says it.
      "LISTEN_PID=1",
      ...(names === undefined ? [] : [`LISTEN_FDNAMES=${names}`]),
    ],
  };
}

/** 0 when nothing was meant for this process. */
function listenCount({
  LISTEN_FDS: count = "",
  LISTEN_PID: pid = "",
}: Readonly<Record<string, string | undefined>>): number {
  if (pid !== String(process.pid) || !/^\d{1,9}$/.test(count)) return 0;
  return Number(count);
}
