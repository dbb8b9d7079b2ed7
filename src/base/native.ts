import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { RuntimeError } from "./errors.ts";

/** One end of an AF_VSOCK connection (vsock(7)). */
export interface VsockAddress {
  /** 1 is this machine itself, 2 the host of a guest. */
  readonly cid: number;
  readonly port: number;
}

/** What Linux offers and Node does not (native/src). A failing call throws an `Error` with the errno's name as `code`. */
export interface Native {
  /**
   * Opens the tap `name` in the network namespace at `netnsPath` (single queue, no packet information, virtio-net
   * headers), made when there is none. Unless it `stays` until it is removed or its namespace goes, the kernel removes it with its last
   * file descriptor, whose close takes 16 ms then. The descriptor is non-blocking, close-on-exec, and the caller's.
   */
  openTap(options: { readonly netnsPath: string; readonly name: string; readonly stays: boolean }): number;
  /** Makes a network namespace, its loopback up, which lives as long as the mount of it that is made on the file at `path`. */
  makeNetns(path: string): void;
  /**
   * Non-blocking TCP sockets that get every connection to 127.0.0.1 and ::1 of the network namespace at `netnsPath`, whatever
   * its port, until `link` is closed. All descriptors are close-on-exec and the caller's.
   */
  listenLoopback(netnsPath: string): { readonly listeners: readonly number[]; readonly link: number };
  /**
   * A UDP socket of the network namespace at `netnsPath`, on a free port of 127.0.0.1. Close-on-exec, non-blocking, and the
   * caller's, as is that of `connectInNamespace`.
   */
  openUdpInNamespace(netnsPath: string): number;
  /** Starts to connect to a TCP port of it by IPv4: wait for it to be writable, then ask `socketError`. */
  connectInNamespace(netnsPath: string, address: string, port: number): number;
  /**
   * Copies the mount that the file or directory `fd` (O_PATH is enough) is on, with it as the root; attached nowhere yet.
   * The descriptor is close-on-exec and the caller's; closing it before `moveMount` gives the copy up.
   */
  cloneTree(source: { readonly fd: number; readonly recursive: boolean }): number;
  /** Changes the mounts of a copied tree. */
  setMountAttributes(tree: number, attributes: MountAttributes): void;
  /**
   * Attaches a copied tree at `target`, whose last component is not followed when it is a symbolic link; in the mount
   * namespace with the descriptor, where the path begins at its root, else in ours.
   */
  moveMount(tree: number, target: string, namespace?: number): void;
  /**
   * Mounts a file system (mount(2)) at a directory, on a thread of libuv's pool: what its `data` names may be slow. Resolves with the name
   * of the errno, or with null. More than a page of data is E2BIG.
   */
  mountFileSystem(system: FileSystem): Promise<string | null>;
  /** An empty file system in memory of at most 4 MiB, without setuid programs and devices; of a descriptor as `cloneTree`'s. */
  openScratch(): number;
  /** Detaches the mount at `path` with all that is mounted below it; symbolic links are not followed. */
  detachMount(path: string, namespace?: number): void;
  /**
   * A folder for device nodes that is mounted nowhere, and gone with the last process that has it. The descriptor is
   * close-on-exec and the caller's.
   */
  openDeviceFolder(): number;
  /** Makes a block device's node in such a folder, with exactly this mode. */
  makeBlockDevice(folder: number, device: BlockDeviceNode): void;
  removeBlockDevice(folder: number, name: string): void;
  /** A user namespace with these maps (user_namespaces(7)) and no process in it. The descriptor is the caller's. */
  createUserNamespace(uidMap: string, gidMap: string): number;
  /** A file of `mib` MiB in memory that has no name and can be sealed. The descriptor is close-on-exec and the caller's. */
  makeMemfd(name: string, mib: number): number;
  /** Makes its content final for everybody who has it; EBUSY as long as somebody has it mapped to write to. */
  sealMemfd(fd: number): void;
  /** Makes a FIFO (mkfifo(3)); `mode` is subject to the umask. */
  makeFifo(path: string, mode: number): void;
  /** Marks every descriptor from `first` on close-on-exec. */
  closeOnExecFrom(first: number): void;
  /** A listening unix socket at `path`, to hand over to a child. The descriptor is close-on-exec and the caller's. */
  listenUnix(path: string): number;
  /** Connects to the stream socket at `path`, sends `data` with a duplicate of `fd` (SCM_RIGHTS), and closes it. */
  sendFd(path: string, fd: number, data: string): void;
  /** `sendFd`, and returns the connection, which is the caller's: for a peer that answers. */
  openWithFd(path: string, fd: number, data: string): number;
  /**
   * Sends `data` with a duplicate of `fd` over a connected stream socket, without waiting; EAGAIN when there is room for
   * none. Returns how many bytes were sent: the descriptor went with the first.
   */
  sendWithFd(socket: number, fd: number, data: string): number;
  /** The version of Landlock that this kernel has (landlock(7)); 0: none. */
  landlockVersion(): number;
  /** Sends a datagram to the unix socket at `path`; an abstract one begins with "@". */
  sendDatagram(path: string, data: string): void;
  /** Takes the next connection of a listening socket and the descriptor sent over it, which is the caller's. Waits. */
  receiveFd(listener: number): { readonly fd: number; readonly data: string };
  /** Tells what a descriptor leads to; EBADF when it is not open. */
  describeFd(fd: number): DescriptorFacts;
  /** Duplicates a descriptor of another process (pidfd_getfd(2)). The duplicate is close-on-exec and the caller's. */
  takeFd(pid: number, fd: number): number;
  /** For everybody who has the descriptor. */
  setNonBlocking(fd: number): void;
  /** The next connection of a listening stream socket, which is the caller's; null when none waits. */
  acceptStream(listener: number): number | null;
  /** A new pseudo terminal in raw mode. The master is close-on-exec and the caller's. */
  openPty(): { readonly master: number; readonly slavePath: string };
  /** The size of the terminal `fd`; 0 each when it was never set. */
  getWindowSize(fd: number): { readonly columns: number; readonly rows: number };
  setWindowSize(fd: number, columns: number, rows: number): void;
  /**
   * Starts to connect an AF_VSOCK socket: wait for it to be writable, then ask `socketError`. All sockets of the addon are
   * non-blocking, close-on-exec, and the caller's.
   */
  connectVsock(cid: number, port: number): number;
  /** Throws the error that a socket has kept. */
  socketError(fd: number): void;
  /** `cid` 0xffffffff: every one of this machine; such a port: a free one. */
  listenVsock(cid: number, port: number, backlog: number): number;
  /** The next connection of a listening socket; null when none waits. */
  acceptVsock(listener: number): { readonly fd: number; readonly peer: VsockAddress } | null;
  /** The own end of a socket. */
  vsockName(fd: number): VsockAddress;
  /** A unix socket without a peer, in whose place `replaceFd` puts another. */
  openUnconnected(): number;
  /** Puts `source` in the place of `target` and closes `source`'s own number. */
  replaceFd(target: number, source: number): void;
  /** Opens the kernel's vhost-vsock with `cid` for its guest; EADDRINUSE when another guest has it. The caller's. */
  openVhostVsock(cid: number): number;
  /** True once `fd` can be read, accepted from, or is at its end; false after `cancelWait`. One wait at a time for each. */
  waitReadable(fd: number): Promise<boolean>;
  /** The same for writing and for the end of a connect. */
  waitWritable(fd: number): Promise<boolean>;
  /** Ends the wait for `fd`, if there is one: before it is closed. */
  cancelWait(fd: number): void;
  /** Ends this process at once, without Node's own way to its end: nothing that is still to be written is waited for. */
  exitNow(code: number): never;
  /** Ends this process by a signal, without a core dump. Returns only for a signal that ends no process. */
  dieOf(signal: number): void;
}

export interface DescriptorFacts {
  readonly kind: "socket" | "fifo" | "file" | "directory" | "character device" | "block device" | "other";
  /** Of a socket (socket(2)), else 0. */
  readonly domain: number;
  /** Empty for what is no socket. */
  readonly socketType: "stream" | "datagram" | "seqpacket" | "other" | "";
  readonly protocol: number;
  readonly isListening: boolean;
  readonly isConnected: boolean;
  /** Its own, of a TCP socket; else 0. */
  readonly port: number;
  /** How it was opened. */
  readonly access: "r" | "w" | "rw";
}

export interface FileSystem {
  readonly kind: string;
  readonly source: string;
  readonly target: string;
  /** MS_… of mount(2). */
  readonly flags: number;
  /** What the file system itself reads, with commas. */
  readonly data: string;
  /** Where relative paths in `data` begin. */
  readonly directory?: string | undefined;
}

export interface BlockDeviceNode {
  readonly name: string;
  readonly major: number;
  readonly minor: number;
  readonly uid: number;
  readonly gid: number;
  readonly mode: number;
}

/** A change of mounts (mount_setattr(2)). What is not said stays. */
export interface MountAttributes {
  /** The mounts below the topmost, too. */
  readonly recursive: boolean;
  readonly readOnly?: boolean;
  readonly noSuidAndDev?: boolean;
  readonly propagation?: "private" | "slave";
  /** Descriptor of the user namespace by which the ids of files are mapped. */
  readonly idMap?: number;
}

/**
 * The native addon, loaded at the first call.
 *
 * @throws unavailable  it was not built, or is of another machine
 */
export function loadNative(): Native {
  // Beside the bundle (`lib/`; the library's `dist/`), or in the checkout when these sources run as they are.
  const candidates = ["caisson.node", "../lib/caisson.node", "../../build/lib/caisson.node"].map((path) =>
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
