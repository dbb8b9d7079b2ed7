/**
 * AF_VSOCK as Node streams. Libuv reads and writes any stream socket, but makes handles only for those whose family it knows:
 * a socket starts with a unix socket without a peer, and the vsock descriptor is put in its place before libuv has looked
 * at it. So reading, writing, back-pressure and half-close are those of `net.Socket`. Connecting and accepting wait on one
 * thread of the addon.
 */
import { EventEmitter } from "node:events";
import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { type DirectOptions, makeDirect } from "./direct-reads.ts";
import { errnoOf, RuntimeError } from "./errors.ts";
import { systemErrorCode } from "./files.ts";
import { loadNative, type VsockAddress } from "./native.ts";
import { abortable, scope } from "./scope.ts";

export type { VsockAddress } from "./native.ts";

/** Of a listener: every CID of this machine, and a free port. */
export const anyCid = 0xffff_ffff;
export const anyPort = 0xffff_ffff;

/** The CID of the machine itself. */
export const localCid = 1;

const backlog = 128;
const defaultConnectTimeoutMs = 10_000;
/** What a listener outlives (accept(2)): what is wrong with the one connection, and what others may give back. */
const transientErrors = new Set(["ECONNABORTED", "ECONNRESET", "EPERM", "EPROTO"]);
const shortages = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]);
const shortagePauseMs = 100;

export interface ConnectOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  /** As of `net.Socket`: keep the own direction open when the peer ends its own. Default false. */
  readonly allowHalfOpen?: boolean;
  /** Makes a direct socket (`direct-reads.ts`). */
  readonly isDirect?: boolean;
}

/** A connected AF_VSOCK stream: a `net.Socket` that knows its peer. */
export class VsockSocket extends Socket {
  /** The peer's context id. */
  readonly cid: number;
  /** The peer's port. */
  readonly port: number;

  /** Takes over the connected descriptor `fd`. */
  private constructor(fd: number, peer: VsockAddress, allowHalfOpen: boolean, direct?: DirectOptions) {
    const native = loadNative();
    const unconnected = native.openUnconnected();
    // The type does not know `manualStart`: nothing is read, so libuv does not look.
    const options = {
      fd: unconnected,
      allowHalfOpen,
      manualStart: true,
      readable: true,
      writable: true,
      ...direct,
    };
    super(options);
    this.cid = peer.cid;
    this.port = peer.port;
    native.replaceFd(unconnected, fd);
    // As after a connect: data is taken in up to the high-water mark. HTTP/2 relies on it.
    this.read(0);
  }

  /**
   * Connects to a port of another machine (or of this one, by `localCid`).
   *
   * @throws unavailable        nobody listens (ECONNRESET), no such CID (ENODEV); the errno is the cause's `code`
   * @throws unimplemented      this kernel has no vsock
   * @throws deadline_exceeded  no answer within `timeoutMs`
   */
  static async connect(address: VsockAddress, options: ConnectOptions = {}): Promise<VsockSocket> {
    const { signal, timeoutMs = defaultConnectTimeoutMs, allowHalfOpen = false, isDirect = false } = options;
    const what = `vsock port ${address.port} of CID ${address.cid}`;
    signal?.throwIfAborted();
    using limit = scope(signal, timeoutMs, `the connection to ${what}`);
    const native = loadNative();
    let fd: number | undefined;
    try {
      fd = native.connectVsock(address.cid, address.port);
      if (!(await abortable(native.waitWritable(fd), limit.signal)))
        throw new RuntimeError("internal", `Cannot connect to ${what}: the wait for it was ended`);
      native.socketError(fd);
      const connected = fd;
      const make = (direct?: DirectOptions) => new VsockSocket(connected, address, allowHalfOpen, direct);
      const socket = isDirect ? makeDirect(make) : make();
      fd = undefined;
      return socket;
    } catch (cause) {
      throw limit.signal.aborted ? limit.signal.reason : cannot(`connect to ${what}`, cause);
    } finally {
      if (fd !== undefined) {
        native.cancelWait(fd);
        closeSync(fd);
      }
    }
  }

  /** Wraps a connection that a listener has accepted. */
  static adopt(fd: number, peer: VsockAddress, allowHalfOpen = false): VsockSocket {
    return new VsockSocket(fd, peer, allowHalfOpen);
  }
}

export interface ListenOptions {
  /** Default: every CID of this machine. */
  readonly cid?: number;
  /** Default: a free one. */
  readonly port?: number;
  readonly allowHalfOpen?: boolean;
  /** Connections from other peers are closed at once. Default: all are taken. */
  readonly acceptsPeer?: (peer: VsockAddress) => boolean;
}

interface VsockServerEvents {
  connection: [socket: VsockSocket];
  error: [error: Error];
  close: [];
}

/** A listening AF_VSOCK socket. It keeps the process alive until it is closed; connections outlive it. */
export class VsockServer extends EventEmitter<VsockServerEvents> implements AsyncDisposable {
  /** Where it listens, with the port that was free. */
  readonly address: VsockAddress;
  readonly #fd: number;
  readonly #options: ListenOptions;
  readonly #served: Promise<void>;
  #isClosed = false;

  private constructor(fd: number, options: ListenOptions) {
    super();
    this.#fd = fd;
    this.#options = options;
    this.address = loadNative().vsockName(fd);
    this.#served = this.#serve();
  }

  /**
   * Listens from when it returns.
   *
   * @throws unavailable    the port is taken (EADDRINUSE); the errno is the cause's `code`
   * @throws unimplemented  this kernel has no vsock
   */
  static listen(options: ListenOptions = {}): VsockServer {
    const { cid = anyCid, port = anyPort } = options;
    try {
      return new VsockServer(loadNative().listenVsock(cid, port, backlog), options);
    } catch (cause) {
      throw cannot(`listen on vsock port ${port === anyPort ? "of the kernel's choice" : port}`, cause);
    }
  }

  /** Stops listening. Safe to call twice. */
  close(): Promise<void> {
    // The descriptor's number may be somebody else's once it is closed.
    if (!this.#isClosed) loadNative().cancelWait(this.#fd);
    this.#isClosed = true;
    return this.#served;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #serve(): Promise<void> {
    try {
      // Whoever listens adds its handlers first.
      await Promise.resolve();
      while (!this.#isClosed && (await loadNative().waitReadable(this.#fd))) await this.#acceptWaiting();
    } catch (error) {
      this.emit("error", cannot(`accept on vsock port ${this.address.port}`, error));
    } finally {
      this.#isClosed = true;
      closeSync(this.#fd);
      this.emit("close");
    }
  }

  /** At most as many as can wait: who connects without an end does not keep the rest of the program from running. */
  async #acceptWaiting(): Promise<void> {
    const { acceptsPeer, allowHalfOpen = false } = this.#options;
    for (let count = 0; count < backlog && !this.#isClosed; count++) {
      const accepted = await this.#accept();
      if (accepted === null) return;
      if (acceptsPeer?.(accepted.peer) === false) closeSync(accepted.fd);
      else this.emit("connection", VsockSocket.adopt(accepted.fd, accepted.peer, allowHalfOpen));
    }
  }

  /** The next connection; null when none waits. */
  async #accept() {
    for (;;) {
      if (this.#isClosed) return null;
      try {
        return loadNative().acceptVsock(this.#fd);
      } catch (error) {
        const errno = errnoOf(error) ?? "";
        if (shortages.has(errno)) await sleep(shortagePauseMs);
        else if (!transientErrors.has(errno)) throw error;
      }
    }
  }
}

function cannot(action: string, cause: unknown): RuntimeError {
  if (cause instanceof RuntimeError) return cause;
  const errno = errnoOf(cause);
  if (errno === "EAFNOSUPPORT")
    return new RuntimeError("unimplemented", `Cannot ${action}: this kernel has no vsock`, { cause });
  const code = systemErrorCode(cause) === "resource_exhausted" ? "resource_exhausted" : "unavailable";
  return new RuntimeError(code, `Cannot ${action}${errno === undefined ? "" : `: ${errno}`}`, { cause });
}
