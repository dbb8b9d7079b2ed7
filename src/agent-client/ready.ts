import { createServer, type Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { abortable } from "../base/scope.ts";

/** Guest port the agent dials once it serves (see the head of agent.proto). */
const readyPort = 1026;
const readyLine = "READY 1\n";

export interface ReadyListener extends AsyncDisposable {
  /** Path of the listening socket, to be made accessible to the vsock backend. */
  readonly path: string;
  /**
   * Resolves when the agent has said that it is ready; the listener is closed for good then, before any workload runs.
   *
   * @throws unavailable  the first line was not the agent's (another version, or something else in the guest)
   */
  ready(signal: AbortSignal): Promise<void>;
}

/** Listens where the hybrid vsock backend delivers connections from the guest to the ready port. */
export async function listenForReady(vsockPath: string): Promise<ReadyListener> {
  const path = `${vsockPath}_${readyPort}`;
  const outcome = Promise.withResolvers<void>();
  outcome.promise.catch(() => {
    // Reported by `ready`; without this line a failure before it is called would end the process.
  });
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    readLine(socket).then(
      (line) => {
        socket.destroy();
        if (line === readyLine) outcome.resolve();
        else outcome.reject(unexpected(line));
      },
      () => socket.destroy(),
    );
  });
  server.maxConnections = 4;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      // The server waits for its connections, and the guest may hold them for ever.
      for (const socket of sockets) socket.destroy();
    });
  return {
    path,
    ready: async (signal) => {
      try {
        await abortable(outcome.promise, signal);
      } finally {
        await close();
      }
    },
    [Symbol.asyncDispose]: close,
  };
}

function unexpected(line: string): RuntimeError {
  return new RuntimeError(
    "unavailable",
    `Cannot use the guest's agent: it said ${JSON.stringify(line)}, expected ${JSON.stringify(readyLine)}; the guest image and the runtime are of different versions`,
  );
}

/** The first line, or what came instead of one within 64 bytes. */
function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (text.includes("\n") || text.length > 64) resolve(text.slice(0, 64));
    });
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("Closed before a line came")));
  });
}
