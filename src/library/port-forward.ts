import { createServer, type AddressInfo, type Socket } from "node:net";
import { type Code, errnoOf, RuntimeError } from "../base/errors.ts";
import { forwardConnection } from "../sandbox/forward.ts";
import type { Sandbox as SandboxModel } from "../sandbox/model.ts";

export interface ForwardPortOptions {
  /** Address of this machine to listen on. Default: 127.0.0.1. */
  readonly host?: string;
  /** Port of this machine; default: a free one. */
  readonly port?: number;
}

/** A local listener whose connections lead to a port of a sandbox. Like any server it keeps the program running. */
export interface PortForward extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  /** Ends it with its connections. Safe to call twice. */
  close(): Promise<void>;
}

/**
 * Listens on this machine for connections to a port of the sandbox's loopback. The caller owns the listener.
 *
 * @param ended  aborts when the sandbox has ended
 * @throws invalid_argument                   not a port, or no address of this machine
 * @throws already_exists, permission_denied  the local port is taken, or not for us
 */
export async function forwardPort(
  model: Pick<SandboxModel, "connect">,
  guestPort: number,
  { host = "127.0.0.1", port = 0 }: ForwardPortOptions,
  ended: AbortSignal,
): Promise<PortForward> {
  if (!Number.isInteger(guestPort) || guestPort < 1 || guestPort > 0xffff)
    throw new RuntimeError("invalid_argument", `Cannot forward port ${guestPort}: expected 1 to 65535`);
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    // Whoever has connected sees what becomes of it.
    void forwardConnection(socket, () => model.connect(guestPort, { signal: ended })).catch(() => {});
  });
  await new Promise<void>((resolve, reject) => {
    // A later one is of one connection that could not be accepted; the client sees it closed.
    server.on("error", (cause) =>
      reject(
        new RuntimeError(listenCode(cause), `Cannot listen on ${host}:${port}: ${cause.message}`, { cause }),
      ),
    );
    server.listen({ host, port }, resolve);
  });
  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= new Promise<void>((resolve) => {
      ended.removeEventListener("abort", onEnd);
      server.close(() => resolve());
      for (const socket of open) socket.destroy();
    });
    return closing;
  };
  const onEnd = () => void close();
  ended.addEventListener("abort", onEnd, { once: true });
  const address = server.address() as AddressInfo;
  return { host: address.address, port: address.port, close, [Symbol.asyncDispose]: close };
}

function listenCode(error: Error): Code {
  const codes: Readonly<Record<string, Code>> = {
    EADDRINUSE: "already_exists",
    EACCES: "permission_denied",
    EADDRNOTAVAIL: "invalid_argument",
    ENOTFOUND: "invalid_argument",
    ERR_SOCKET_BAD_PORT: "invalid_argument",
  };
  return codes[errnoOf(error) ?? ""] ?? "internal";
}
