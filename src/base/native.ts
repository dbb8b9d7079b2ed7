import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { RuntimeError } from "./errors.ts";

/** What Linux offers and Node does not (native/src). A failing call throws an `Error` with the errno's name as `code`. */
export interface Native {
  /**
   * Opens the tap `name` in the network namespace at `netnsPath` (single queue, no packet information, virtio-net
   * headers), made when there is none; the kernel removes it with its last file descriptor. The descriptor is non-blocking,
   * close-on-exec, and the caller's.
   */
  openTap(options: { readonly netnsPath: string; readonly name: string }): number;
  /** Makes a FIFO (mkfifo(3)); `mode` is subject to the umask. */
  makeFifo(path: string, mode: number): void;
  /** Marks every descriptor from `first` on close-on-exec. */
  closeOnExecFrom(first: number): void;
  /** A listening unix socket at `path`, to hand over to a child. The descriptor is close-on-exec and the caller's. */
  listenUnix(path: string): number;
  /** Connects to the stream socket at `path`, sends `data` with a duplicate of `fd` (SCM_RIGHTS), and closes it. */
  sendFd(path: string, fd: number, data: string): void;
  /** Takes the next connection of a listening socket and the descriptor sent over it, which is the caller's. Waits. */
  receiveFd(listener: number): { readonly fd: number; readonly data: string };
  /** A new pseudo terminal in raw mode. The master is close-on-exec and the caller's. */
  openPty(): { readonly master: number; readonly slavePath: string };
  /** The size of the terminal `fd`; 0 each when it was never set. */
  getWindowSize(fd: number): { readonly columns: number; readonly rows: number };
  setWindowSize(fd: number, columns: number, rows: number): void;
  /** Ends this process by a signal, without a core dump. Returns only for a signal that ends no process. */
  dieOf(signal: number): void;
}

/**
 * The native addon, loaded at the first call.
 *
 * @throws unavailable  it was not built, or is of another machine
 */
export function loadNative(): Native {
  // Beside the bundle (`lib/` and `lib/chunks/`), or in the checkout when these sources run as they are.
  const candidates = ["caisson.node", "../caisson.node", "../../build/lib/caisson.node"].map((path) =>
    join(import.meta.dirname, path),
  );
  const path = candidates.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new RuntimeError(
      "unavailable",
      `Cannot load the native addon: there is none at ${candidates.map((candidate) => `"${candidate}"`).join(" or ")}; "make build" or native/build.sh builds it`,
    );
  }
  try {
    // `require` keeps what it has loaded.
    return createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    throw new RuntimeError(
      "unavailable",
      `Cannot load the native addon "${path}": build it anew on this machine with native/build.sh`,
      { cause },
    );
  }
}
