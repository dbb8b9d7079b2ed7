import { randomBytes } from "node:crypto";
import { RuntimeError } from "../base/errors.ts";
import { abortable } from "../base/scope.ts";
import { anyPort, VsockServer, type VsockSocket } from "../base/vsock.ts";
import { type ReadyListener, readLine, readyLine, unexpected } from "./ready.ts";

const heldLine = "HELD\n";

/**
 * The port of the host that one guest dials before it is saved, and all that are restored from it dial again. They are told apart by
 * their CIDs, which they cannot choose. Nobody listens there but while one of them is expected, and others are not heard.
 */
export class HeldGuests implements AsyncDisposable {
  readonly #expected = new Map<number, PromiseWithResolvers<VsockSocket>>();
  /** Lies in the memory of the saved guest and of those that were restored from it. */
  readonly #nonce = randomBytes(16).toString("hex");
  #port = anyPort;
  #server: VsockServer | undefined;
  #closing: Promise<void> = Promise.resolve();
  #isPortLost = false;

  /** Another program has taken the port meanwhile: the saved guest is of no use any more. */
  get isPortLost(): boolean {
    return this.#isPortLost;
  }

  /**
   * For a guest that boots and will be saved. It holds still once `ready` has resolved, and until the listener is disposed.
   *
   * @throws unavailable  the port is taken
   */
  expectFirst(cid: number): Promise<ReadyListener> {
    return this.#expect(cid, async (socket, signal) => {
      await expectLine(socket, readyLine, signal);
      const answer = expectLine(socket, heldLine, signal);
      socket.write(`HOLD ${this.#nonce}\n`);
      await answer;
    });
  }

  /** For a guest that is restored. @throws unavailable  the port is taken */
  expectRestored(cid: number): Promise<ReadyListener> {
    return this.#expect(cid, async (socket, signal) => {
      const line = await abortable(readLine(socket), signal);
      socket.destroy();
      if (line === readyLine.replace("\n", ` ${this.#nonce}\n`)) return;
      throw new RuntimeError(
        "unavailable",
        "Cannot use the guest's agent: it does not say what the saved memory holds; make the template anew",
      );
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const error = new RuntimeError("canceled", "Cannot wait for the guest: nobody listens for it any more");
    for (const { reject } of this.#expected.values()) reject(error);
    this.#expected.clear();
    this.#rest();
    await this.#closing;
  }

  async #expect(
    cid: number,
    greet: (socket: VsockSocket, signal: AbortSignal) => Promise<void>,
  ): Promise<ReadyListener> {
    const connection = Promise.withResolvers<VsockSocket>();
    connection.promise.catch(() => {
      // Reported by `ready`, if it is called.
    });
    this.#expected.set(cid, connection);
    try {
      const port = await this.#listen();
      return {
        path: undefined,
        port,
        ready: async (signal) => greet(await abortable(connection.promise, signal), signal),
        [Symbol.asyncDispose]: async () => {
          this.#forget(cid, connection);
          connection.promise.then(
            (socket) => socket.destroy(),
            () => {},
          );
          await this.#closing;
        },
      };
    } catch (error) {
      this.#forget(cid, connection);
      throw error;
    }
  }

  async #listen(): Promise<number> {
    while (this.#server === undefined) {
      const closing = this.#closing;
      await closing;
      if (this.#server !== undefined || closing !== this.#closing) continue;
      try {
        this.#server = VsockServer.listen({
          port: this.#port,
          acceptsPeer: ({ cid }) => this.#expected.has(cid),
        });
      } catch (error) {
        this.#isPortLost = this.#port !== anyPort;
        throw error;
      }
      this.#port = this.#server.address.port;
      this.#server.on("connection", (socket) => this.#onConnection(socket));
      this.#server.on("error", (error) => {
        this.#rest();
        for (const { reject } of this.#expected.values()) reject(error);
      });
    }
    return this.#port;
  }

  #onConnection(socket: VsockSocket): void {
    socket.on("error", () => {
      // Whoever reads from it learns that it has ended.
    });
    const expected = this.#expected.get(socket.cid);
    if (expected === undefined) return void socket.destroy();
    this.#forget(socket.cid, expected);
    expected.resolve(socket);
  }

  #forget(cid: number, connection: PromiseWithResolvers<VsockSocket>): void {
    if (this.#expected.get(cid) === connection) this.#expected.delete(cid);
    if (this.#expected.size === 0) this.#rest();
  }

  /** Listens no more, until the next one is expected. */
  #rest(): void {
    const server = this.#server;
    this.#server = undefined;
    if (server !== undefined) this.#closing = server.close();
  }
}

async function expectLine(socket: VsockSocket, expected: string, signal: AbortSignal): Promise<void> {
  const line = await abortable(readLine(socket), signal);
  if (line !== expected) throw unexpected(line, expected);
}
