import { createServer, type Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { abortable } from "../base/scope.ts";
import { VsockServer } from "../base/vsock.ts";
import type { GuestAddress } from "./vsock.ts";

/** Host port the agent dials once it serves, unless its kernel command line names another (see the head of agent.proto). */
const readyPort = 1026;
export const readyLine = "READY 1\n";
/** At the same time; the agent makes one. */
const maxConnections = 4;

export interface ReadyListener extends AsyncDisposable {
  /** Of a hybrid vsock: path of the listening socket, to be made accessible to the vsock backend. */
  readonly path: string | undefined;
  /** What the guest has to dial. The host's vsock ports are shared by all guests: each gets one of its own. */
  readonly port: number;
  /**
   * Resolves when the agent has said that it is ready; the listener is closed for good then, before any workload runs.
   *
   * @throws unavailable  the first line was not the agent's (another version, or something else in the guest)
   */
  ready(signal: AbortSignal): Promise<void>;
}

/** Listens for the guest that will have this address. */
export async function listenForReady(guest: GuestAddress): Promise<ReadyListener> {
  const outcome = Promise.withResolvers<void>();
  outcome.promise.catch(() => {
    // Reported by `ready`; without this line a failure before it is called would end the process.
  });
  const sockets = new Set<Socket>();
  const onConnection = (socket: Socket) => {
    if (sockets.size >= maxConnections) return void socket.destroy();
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    readLine(socket).then(
      (line) => {
        socket.destroy();
        if (line === readyLine) outcome.resolve();
        else outcome.reject(unexpected(line, readyLine));
      },
      () => socket.destroy(),
    );
  };
  const server = await listen(guest, onConnection, outcome.reject);
  const close = async () => {
    const closed = server.close();
    // The server waits for its connections, and the guest may hold them for ever.
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  return {
    path: server.path,
    port: server.port,
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

interface Listening {
  readonly path: string | undefined;
  readonly port: number;
  close(): Promise<void>;
}

function listen(
  guest: GuestAddress,
  onConnection: (socket: Socket) => void,
  onError: (error: Error) => void,
): Promise<Listening> {
  switch (guest.tag) {
    case "hybrid":
      return listenOnUnix(`${guest.path}_${readyPort}`, onConnection);
    case "vsock":
      return listenOnVsock(guest.cid, onConnection, onError);
  }
}

/** Where the hybrid vsock backend delivers connections from the guest to the ready port. */
async function listenOnUnix(path: string, onConnection: (socket: Socket) => void): Promise<Listening> {
  const server = createServer(onConnection);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  const close = () => new Promise<void>((resolve) => void server.close(() => resolve()));
  return { path, port: readyPort, close };
}

async function listenOnVsock(
  cid: number,
  onConnection: (socket: Socket) => void,
  onError: (error: Error) => void,
): Promise<Listening> {
  // Every guest of this host can dial the port: only ours is heard.
  const server = VsockServer.listen({ acceptsPeer: (peer) => peer.cid === cid });
  server.on("connection", onConnection).on("error", onError);
  return { path: undefined, port: server.address.port, close: () => server.close() };
}

export function unexpected(line: string, expected: string): RuntimeError {
  return new RuntimeError(
    "unavailable",
    `Cannot use the guest's agent: it said ${JSON.stringify(line)}, expected ${JSON.stringify(expected)}; the guest image and the runtime are of different versions`,
  );
}

/** The first line, or what came instead of one within 64 bytes. */
export function readLine(socket: Socket): Promise<string> {
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
