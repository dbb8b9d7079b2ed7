import type { Duplex } from "node:stream";
import { type Daemon, type DaemonSpec, startDaemon } from "../../base/daemon.ts";
import { RuntimeError } from "../../base/errors.ts";
import { within } from "../../base/scope.ts";
import { TextRing } from "../../base/text-ring.ts";

/** A started QEMU and our ends of its sockets. Disposing kills it; it is over when all it said was read. */
export interface QemuProcess extends AsyncDisposable {
  readonly daemon: Daemon;
  readonly qmpSocket: Duplex;
  /** The end of the guest's console. */
  readonly guestConsole: TextRing;
}

const consoleLimitBytes = 64 * 1024;
/** How long what a dead QEMU has written may take to be read. It is in the sockets' buffers already. */
const drainMs = 200;

/**
 * Starts QEMU with QMP and console as its first inherited sockets. Does not wait for anything that it does.
 *
 * @throws unavailable  it cannot be executed
 */
export async function startQemu(spec: DaemonSpec): Promise<QemuProcess> {
  const daemon = await startDaemon(spec);
  const [qmpSocket, consoleSocket] = daemon.sockets;
  if (qmpSocket === undefined || consoleSocket === undefined) {
    await daemon.stop(0);
    throw new RuntimeError("internal", "Cannot talk to QEMU: it was started without sockets");
  }
  const guestConsole = new TextRing(consoleLimitBytes);
  // Always read on: a guest whose console is full would wait.
  consoleSocket.on("data", (chunk: Buffer) => guestConsole.push(chunk));
  const drained = Promise.all([qmpSocket, consoleSocket].map((socket) => closed(socket)));
  return {
    daemon,
    qmpSocket,
    guestConsole,
    async [Symbol.asyncDispose]() {
      await daemon.stop(0);
      await within(drained, drainMs, undefined);
      qmpSocket.destroy();
      consoleSocket.destroy();
    },
  };
}

function closed(socket: Duplex): Promise<void> {
  // QEMU is gone; its exit is reported by the daemon.
  socket.on("error", () => {});
  return new Promise((resolve) => socket.once("close", () => resolve()));
}
