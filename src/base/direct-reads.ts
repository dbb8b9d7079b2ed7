/**
 * Sockets that read into one buffer of their own. Node makes a buffer for each read otherwise, which costs more than the read where
 * much is moved: its pages are mapped and zeroed, and the garbage collector has to find it.
 */
import { type OnReadOpts, Socket } from "node:net";
import type { Readable } from "node:stream";

/** As much as a unix socket holds. Pages that no read has reached take no memory. */
const bufferBytes = 256 * 1024;

/** Takes bytes; false asks for no more until the socket is resumed. */
type Take = (bytes: Buffer) => boolean;

const takers = new WeakMap<Readable, { take: Take }>();

/** Options of a socket that `makeDirect` makes; the types of Node do not know that those of streams are taken, too. */
export interface DirectOptions {
  readonly onread: OnReadOpts;
  /** A writer waits until everything is written, and may use its memory again. */
  readonly writableHighWaterMark: 1;
}

/**
 * Has `make` make a socket that reads directly. Until `onBytes` it is like any other: what comes is copied, and read as from every
 * stream.
 */
export function makeDirect<T extends Socket>(make: (options: DirectOptions) => T): T {
  const buffer = Buffer.allocUnsafeSlow(bufferBytes);
  const taker: { take: Take } = { take: (bytes) => socket.push(Buffer.from(bytes)) };
  const callback = (count: number) => taker.take(buffer.subarray(0, count));
  const socket = make({ onread: { buffer, callback }, writableHighWaterMark: 1 });
  takers.set(socket, taker);
  return socket;
}

/**
 * Gives what `source` reads to `listener`, in the place of "data". The bytes of a direct socket are overwritten by its next read: who
 * has not done with them pauses it.
 */
export function onBytes(source: Readable, listener: (bytes: Buffer) => void): void {
  const taker = takers.get(source);
  if (taker === undefined) {
    source.on("data", listener);
    return;
  }
  taker.take = (bytes) => {
    listener(bytes);
    return true;
  };
  const waiting = source.read() as Buffer | null;
  if (waiting !== null) listener(waiting);
}

/** What comes from here on is dropped. */
export function dropBytes(source: Readable): void {
  source.removeAllListeners("data");
  const taker = takers.get(source);
  if (taker !== undefined) taker.take = () => true;
  source.resume();
}
