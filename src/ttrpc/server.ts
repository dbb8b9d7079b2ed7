import { createServer, type Server } from "node:net";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { within } from "../base/scope.ts";
import { defaultServerLimits, ServerConnection, type ServerLimits } from "./server-connection.ts";
import type { BoundService } from "./service.ts";

export interface TtrpcServerOptions {
  readonly services: readonly BoundService[];
  /** Told of every error that is a bug of ours and not an answer. */
  readonly onInternalError: (error: unknown) => void;
  readonly limits?: Partial<ServerLimits>;
}

const maxConnections = 4096;
/** Only the owner: Node cannot ask who the peer is (SO_PEERCRED), so the mode of the file is the access control. */
const socketUmask = 0o177;

/** A ttrpc server on a Unix socket. */
export class TtrpcServer {
  readonly #server: Server;
  readonly #onInternalError: (error: unknown) => void;
  readonly #connections = new Set<ServerConnection>();
  #closing: Promise<void> | undefined;

  constructor(options: TtrpcServerOptions) {
    this.#onInternalError = options.onInternalError;
    const services = new Map(options.services.map((service) => [service.name, service]));
    const limits = { ...defaultServerLimits, ...options.limits };
    this.#server = createServer((socket) => {
      const connection = new ServerConnection(socket, {
        services,
        limits,
        onInternalError: options.onInternalError,
      });
      this.#connections.add(connection);
      void connection.closed.then(() => this.#connections.delete(connection));
    });
    this.#server.maxConnections = maxConnections;
  }

  /**
   * Accepts connections at `path`, mode 0600.
   *
   * @throws already_exists  something is bound there, alive or stale
   */
  async listen(path: string): Promise<void> {
    const listening = new Promise<void>((resolve, reject) => {
      this.#server.once("listening", resolve);
      this.#server.once("error", reject);
    });
    // The socket file is made before listen() returns, so the mask holds for nothing else.
    const umask = process.umask(socketUmask);
    try {
      this.#server.listen(path);
    } finally {
      process.umask(umask);
    }
    try {
      await listening;
    } catch (cause) {
      const code = errnoOf(cause) === "EADDRINUSE" ? "already_exists" : "internal";
      throw new RuntimeError(code, `Cannot listen on "${path}"`, { cause });
    }
    this.#server.on("error", this.#onInternalError);
  }

  /** Resolves when all clients have hung up, or after `timeoutMs`. */
  async waitForClients(timeoutMs: number): Promise<void> {
    const closed = [...this.#connections].map((connection) => connection.closed);
    await within(Promise.all(closed), timeoutMs, undefined);
  }

  /**
   * Stops accepting, removes the socket file, lets the written answers reach their clients for at most `graceMs` and
   * ends the connections; open calls are aborted. Safe to call twice.
   */
  close(graceMs: number): Promise<void> {
    this.#closing ??= this.#close(graceMs);
    return this.#closing;
  }

  async #close(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    for (const connection of this.#connections) connection.end();
    await within(closed, graceMs, undefined);
    for (const connection of this.#connections) connection.destroy();
    await closed;
  }
}
