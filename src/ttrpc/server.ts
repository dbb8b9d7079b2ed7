import { randomBytes } from "node:crypto";
import { linkSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { basename, dirname } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { openShortPath } from "../base/files.ts";
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
  #path: string | undefined;
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
   * Accepts connections at `path`, mode 0600. Whoever sees the socket there can connect: it gets this name once it listens.
   *
   * @throws already_exists  something is bound there, alive or stale
   */
  async listen(path: string): Promise<void> {
    using directory = openShortPath(dirname(path));
    const name = `${basename(path)}.${randomBytes(4).toString("hex")}`;
    const temporary = `${directory.path}/${name}`;
    try {
      await this.#listenAt(temporary);
      linkSync(temporary, path);
      this.#path = path;
    } catch (cause) {
      this.#server.close();
      const code = errnoOf(cause) === "EEXIST" ? "already_exists" : "internal";
      throw new RuntimeError(code, `Cannot listen on "${path}"`, { cause });
    } finally {
      rmSync(temporary, { force: true });
    }
    this.#server.on("error", this.#onInternalError);
  }

  async #listenAt(path: string): Promise<void> {
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
    await listening;
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
    if (this.#path !== undefined) rmSync(this.#path, { force: true });
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    for (const connection of this.#connections) connection.end();
    await within(closed, graceMs, undefined);
    for (const connection of this.#connections) connection.destroy();
    await closed;
  }
}
