/**
 * The two ways to a guest's vsock ports: AF_VSOCK, where the host's kernel has vhost-vsock, and hybrid vsock: the VMM (or its backend) listens on a unix socket; a client writes `CONNECT <port>\n` and reads
 * `OK <number>\n`, after which the bytes of the guest's connection follow. Spoken by vhost-device-vsock, Cloud
 * Hypervisor and Firecracker.
 */
import { connect, Socket } from "node:net";
import { makeDirect } from "../base/direct-reads.ts";
import { RuntimeError } from "../base/errors.ts";
import { VsockSocket } from "../base/vsock.ts";

/** How a guest is reached. */
export type GuestAddress =
  /** The path of its hybrid vsock socket. */
  | { readonly tag: "hybrid"; readonly path: string }
  /** Its context id, and a short path of a directory of ours, for sockets between us and ourselves. */
  | { readonly tag: "vsock"; readonly cid: number; readonly directory: string };

/**
 * Connects to a port of the guest.
 *
 * @throws unavailable  the guest is gone or nobody listens
 */
export function dialGuest(guest: GuestAddress, port: number, signal: AbortSignal): Promise<Socket> {
  if (guest.tag === "hybrid") return dialVsock(guest.path, port, signal);
  // The agent ends a stream in band: a half-close has no meaning.
  return VsockSocket.connect({ cid: guest.cid, port }, { signal });
}

/** The same, for a stream that moves many bytes in one direction: the socket is a direct one (`base/direct-reads.ts`). */
export async function dialGuestDirectly(
  guest: GuestAddress,
  port: number,
  signal: AbortSignal,
): Promise<Socket> {
  if (guest.tag === "vsock") return VsockSocket.connect({ cid: guest.cid, port }, { signal, isDirect: true });
  signal.throwIfAborted();
  const socket = makeDirect((options) => new Socket(options));
  return await shakeHands(socket.connect(guest.path), port, signal);
}

/** Port of the guest's agent for streams of bytes. */
export const streamPort = 1025;

const maxLineBytes = 256;
/** For the answer that nobody needs any more. A guest that gives none has no worker to lose. */
const answerTimeoutMs = 60_000;
/** What may wait to be sent to the guest before a writer is told to wait. */
const writeBufferBytes = 256 * 1024;

/** Connects to a port of the guest. Bytes that arrive right behind the handshake are kept. */
export async function dialVsock(path: string, port: number, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted();
  return await shakeHands(connect(connectOptions(path)), port, signal);
}

async function shakeHands(socket: Socket, port: number, signal: AbortSignal): Promise<Socket> {
  try {
    await handshake(socket, port, signal);
    return socket;
  } catch (error) {
    if (signal.aborted) closeOnceAnswered(socket);
    else socket.destroy();
    throw error;
  }
}

/**
 * Closes a connection that was given up before its answer. The answer comes first: vhost-device-vsock 0.3 ends its worker,
 * and all connections of the VM with it, when it has an answer for a connection that is closed.
 */
function closeOnceAnswered(socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), answerTimeoutMs).unref();
  socket
    .unref()
    .once("data", () => socket.destroy())
    .once("close", () => clearTimeout(timer))
    .on("error", () => {})
    .resume();
}

/** The type does not know that the options of streams are taken, too. */
function connectOptions(path: string) {
  return { path, highWaterMark: writeBufferBytes };
}

/** Does the `CONNECT` handshake on a socket that is connected or connecting. */
export async function handshake(socket: Socket, port: number, signal: AbortSignal): Promise<void> {
  socket.write(`CONNECT ${port}\n`);
  const line = await readReplyLine(socket, signal, `vsock port ${port} of the guest`);
  if (!/^OK \d{1,10}$/.test(line)) {
    throw new RuntimeError(
      "unavailable",
      `Cannot connect to vsock port ${port} of the guest: the backend said ${JSON.stringify(line)}`,
    );
  }
}

/**
 * Reads one line of at most 256 bytes and leaves the bytes behind it in the socket, which is paused afterwards.
 *
 * @throws unavailable  the connection ended, or no line end came within 256 bytes
 */
export function readReplyLine(socket: Socket, signal: AbortSignal, what: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    const finish = (settle: () => void) => {
      socket.off("data", onData).off("error", onError).off("close", onClose);
      signal.removeEventListener("abort", onAbort);
      socket.pause();
      settle();
    };
    const fail = (fact: string, cause?: unknown) => {
      finish(() => reject(new RuntimeError("unavailable", `Cannot connect to ${what}: ${fact}`, { cause })));
    };
    const onData = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      const end = received.indexOf(10);
      if (end < 0 && received.length < maxLineBytes) return;
      if (end < 0 || end >= maxLineBytes) return fail(`no line end within ${maxLineBytes} bytes`);
      finish(() => {
        if (end + 1 < received.length) socket.unshift(received.subarray(end + 1));
        resolve(received.toString("latin1", 0, end));
      });
    };
    const onError = (cause: Error) => fail("the connection failed", cause);
    const onClose = () => fail("the connection was closed");
    const onAbort = () => finish(() => reject(signal.reason as Error));
    if (signal.aborted) return onAbort();
    socket.on("data", onData).on("error", onError).on("close", onClose);
    signal.addEventListener("abort", onAbort, { once: true });
    socket.resume();
  });
}
