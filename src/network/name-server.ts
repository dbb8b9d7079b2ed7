import { closeSync } from "node:fs";
import { createSocket } from "node:dgram";
import { Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { loadNative } from "../base/native.ts";
import { abortable } from "../base/scope.ts";

/** The port of DNS. */
const port = 53;
/** What the length before a message on TCP can say (RFC 1035). */
export const maxNameMessageBytes = 65_535;

export interface NameQuestion {
  /** Where the name server is: as it is seen from this network namespace. */
  readonly netnsPath: string;
  /** IPv4, of its loopback. */
  readonly address: string;
  readonly overTcp: boolean;
  /** DNS, of at most 65535 bytes. */
  readonly message: Buffer;
}

/**
 * Asks a name server on the loopback of a network namespace, whose firewall rules lead there (Docker's). Where somebody listens, nothing but
 * the signal ends the wait for an answer.
 *
 * @throws unavailable  nobody answers there, or there is no such namespace
 */
export async function askNameServer(question: NameQuestion, signal: AbortSignal): Promise<Buffer> {
  try {
    return await (question.overTcp ? askByTcp : askByUdp)(question, signal);
  } catch (cause) {
    if (signal.aborted) throw signal.reason;
    throw new RuntimeError("unavailable", `Cannot ask the name server at ${question.address}`, { cause });
  }
}

async function askByUdp({ netnsPath, address, message }: NameQuestion, signal: AbortSignal): Promise<Buffer> {
  const fd = loadNative().openUdpInNamespace(netnsPath);
  const socket = createSocket("udp4");
  try {
    const answered = new Promise<Buffer>((resolve, reject) => {
      socket.on("error", reject);
      socket.on("message", resolve);
    });
    socket.bind({ fd });
    // Only the server's answers come then, and the news that there is none.
    socket.connect(port, address, () => socket.send(message));
    return await abortable(answered, signal);
  } finally {
    socket.close();
  }
}

async function askByTcp({ netnsPath, address, message }: NameQuestion, signal: AbortSignal): Promise<Buffer> {
  const socket = await connectByTcp(netnsPath, address, signal);
  try {
    const length = Buffer.alloc(2);
    length.writeUInt16BE(message.length);
    const answered = readMessage(socket);
    socket.write(Buffer.concat([length, message]));
    return await abortable(answered, signal);
  } finally {
    socket.destroy();
  }
}

async function connectByTcp(netnsPath: string, address: string, signal: AbortSignal): Promise<Socket> {
  const native = loadNative();
  const fd = native.connectInNamespace(netnsPath, address, port);
  try {
    await abortable(native.waitWritable(fd), signal);
    native.socketError(fd);
    return new Socket({ fd, readable: true, writable: true });
  } catch (error) {
    native.cancelWait(fd);
    closeSync(fd);
    throw error;
  }
}

/** One message behind its length; what follows is not read. */
function readMessage(socket: Socket): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    socket.on("error", reject);
    socket.once("close", () => reject(new Error("the connection was closed before the answer")));
    socket.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < 2) return;
      const end = 2 + received.readUInt16BE();
      if (received.length >= end) resolve(received.subarray(2, end));
    });
  });
}
