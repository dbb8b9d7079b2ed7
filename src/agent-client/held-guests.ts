import { randomBytes } from "node:crypto";
import { RuntimeError } from "../base/errors.ts";
import { abortable } from "../base/scope.ts";
import { VsockServer, type VsockSocket } from "../base/vsock.ts";
import { type ReadyListener, readLine, readyLine, unexpected } from "./ready.ts";

const heldLine = "HELD\n";

/**
 * The port of the host that one guest dials before it is saved, and all that are restored from it dial again. They are told apart by
 * their CIDs, which they cannot choose; one that is not expected is not heard. It does not keep the process alive.
 */
export class HeldGuests implements AsyncDisposable {
  readonly #server: VsockServer;
  readonly #expected = new Map<number, PromiseWithResolvers<VsockSocket>>();
  /** Lies in the memory of the saved guest and nowhere else: who knows it was restored from it. */
  readonly #nonce = randomBytes(16).toString("hex");

  private constructor() {
    this.#server = VsockServer.listen({ acceptsPeer: ({ cid }) => this.#expected.has(cid) });
    this.#server.pause();
    this.#server.on("connection", (socket) => this.#onConnection(socket));
    this.#server.on("error", (error) => this.#end(error));
  }

  /** @throws unimplemented  this kernel has no vsock */
  static listen(): HeldGuests {
    return new HeldGuests();
  }

  /** For a guest that boots and will be saved. */
  expectFirst(cid: number): HeldGuest {
    const connection = this.#expect(cid);
    let held: VsockSocket | undefined;
    return {
      ...this.#listener(cid),
      ready: async (signal) => {
        held = await this.#connected(cid, connection, signal);
        await expectLine(held, readyLine, signal);
        const answer = expectLine(held, heldLine, signal);
        held.write(`HOLD ${this.#nonce}\n`);
        await answer;
      },
      release: () => held?.destroy(),
    };
  }

  /** For a guest that is restored. */
  expectRestored(cid: number): ReadyListener {
    const connection = this.#expect(cid);
    return {
      ...this.#listener(cid),
      ready: async (signal) => {
        const socket = await this.#connected(cid, connection, signal);
        try {
          await expectLine(socket, readyLine.replace("\n", ` ${this.#nonce}\n`), signal);
        } finally {
          socket.destroy();
        }
      },
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#end(new RuntimeError("canceled", "Cannot wait for the guest: nobody listens for it any more"));
    return this.#server.close();
  }

  #listener(cid: number): Omit<ReadyListener, "ready"> {
    return {
      path: undefined,
      port: this.#server.address.port,
      [Symbol.asyncDispose]: () => Promise.resolve(this.#forget(cid)),
    };
  }

  #expect(cid: number): Promise<VsockSocket> {
    const connection = Promise.withResolvers<VsockSocket>();
    connection.promise.catch(() => {
      // Reported by `ready`, if it is called.
    });
    this.#expected.set(cid, connection);
    this.#server.resume();
    return connection.promise;
  }

  async #connected(cid: number, connection: Promise<VsockSocket>, signal: AbortSignal): Promise<VsockSocket> {
    try {
      return await abortable(connection, signal);
    } finally {
      this.#forget(cid);
    }
  }

  #onConnection(socket: VsockSocket): void {
    const expected = this.#expected.get(socket.cid);
    if (expected === undefined) return void socket.destroy();
    this.#forget(socket.cid);
    expected.resolve(socket);
  }

  #forget(cid: number): void {
    this.#expected.delete(cid);
    if (this.#expected.size === 0) this.#server.pause();
  }

  #end(error: Error): void {
    for (const { reject } of this.#expected.values()) reject(error);
  }
}

export interface HeldGuest extends ReadyListener {
  /** Resolves when the guest holds still, until `release`, or for good once it was saved. */
  ready(signal: AbortSignal): Promise<void>;
  release(): void;
}

async function expectLine(socket: VsockSocket, expected: string, signal: AbortSignal): Promise<void> {
  const line = await abortable(readLine(socket), signal);
  if (line !== expected) throw unexpected(line, expected);
}
