import { constants, fstatSync, openSync, write } from "node:fs";
import { Socket } from "node:net";
import { isatty } from "node:tty";

/** A place for output. Writes one at a time; each resolves when the system has taken all of it. */
export interface Sink {
  write(chunk: Uint8Array): Promise<void>;
}

/**
 * Our own stdout (1) or stderr (2), written without ever blocking the process: a slow reader must not keep signals from
 * being passed on, as `process.stdout` would do (it writes to pipes synchronously).
 */
export function openStandardSink(fd: 1 | 2): Sink {
  const status = fstatSync(fd);
  if (isatty(fd)) return streamSink(fd === 1 ? process.stdout : process.stderr);
  if (status.isFIFO()) return streamSink(new Socket({ fd: reopen(fd), readable: false, writable: true }));
  if (status.isSocket()) return streamSink(new Socket({ fd, readable: false, writable: true }));
  return fileSink(fd);
}

/** A file opened for appending, or a device that never blocks. */
export function fileSink(fd: number): Sink {
  const writeSome = (chunk: Uint8Array) =>
    new Promise<number>((resolve, reject) => {
      write(fd, chunk, (error, written) => (error === null ? resolve(written) : reject(error)));
    });
  return {
    async write(chunk) {
      for (let rest = chunk; rest.length > 0; ) rest = rest.subarray(await writeSome(rest));
    },
  };
}

function streamSink(stream: NodeJS.WritableStream): Sink {
  stream.on("error", () => {
    // The write that failed reports it.
  });
  return {
    write: (chunk) =>
      new Promise((resolve, reject) => {
        stream.write(chunk, (error) => (error ? reject(error) : resolve()));
      }),
  };
}

/**
 * The same pipe with flags of our own: made non-blocking as it is, it would be so for every process that shares it.
 * A pipe whose reader is gone cannot be opened again; then the first write says so.
 */
function reopen(fd: number): number {
  try {
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch {
    return fd;
  }
}
