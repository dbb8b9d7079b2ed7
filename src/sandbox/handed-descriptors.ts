import { closeSync } from "node:fs";
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestDescriptor } from "../agent-client/agent-types.ts";
import { describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { loadNative } from "../base/native.ts";
import { guestDescriptorOf } from "./descriptors.ts";
import { forwardConnection } from "./forward.ts";

/** At once, of all descriptors of a container. Further ones wait in the socket's backlog. */
const maxConnections = 256;
/** After a connection that could not be accepted, for want of descriptors mostly. */
const acceptPauseMs = 1_000;
/** Number of the first one in the process. */
const firstFd = 3;

/** Connects to the descriptor of this number that the process in the guest has. */
export type ConnectDescriptor = (fd: number, signal: AbortSignal) => Promise<Duplex>;

interface Handed {
  readonly fd: number;
  /** In the process. */
  readonly number: number;
  readonly guest: GuestDescriptor;
}

/**
 * Descriptors of the host that the first process of a container has in the guest. Each connection of a listening one is
 * accepted here and led there; of others the bytes are. They are owned, and closed when disposed of.
 */
export class HandedDescriptors implements Disposable {
  readonly #handed: readonly Handed[];
  /** Not closed by a stream that has taken them. */
  readonly #open: Set<number>;
  readonly #closing = new AbortController();
  readonly #streams = new Set<Socket>();
  /** Each resolves when what came from the guest was written out, or never will be. */
  readonly #outputs = new Set<Promise<void>>();
  /** Resolves when a stream is closed, or nothing is accepted any more. */
  #room = Promise.withResolvers<void>();
  #isOver = false;

  /** @throws unimplemented  one of them cannot cross; then all are closed */
  constructor(fds: readonly number[]) {
    this.#open = new Set(fds);
    try {
      this.#handed = fds.map((fd, index) => {
        const number = firstFd + index;
        const guest = guestDescriptorOf(fd, `descriptor ${number}`);
        if (isListener({ guest })) loadNative().setNonBlocking(fd);
        return { fd, number, guest };
      });
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** What the guest is to make of them, in their order. */
  get guest(): readonly GuestDescriptor[] {
    return this.#handed.map(({ guest }) => guest);
  }

  /** The process is there: begins to move the bytes of what is connected. To be called once. */
  connect(connect: ConnectDescriptor, log: Log): void {
    for (const handed of this.#handed) {
      if (!isListener(handed)) void this.#link(this.#take(handed), handed, connect, log);
    }
  }

  /** The process runs: begins to accept connections for it. To be called once. */
  listen(connect: ConnectDescriptor, log: Log): void {
    for (const handed of this.#handed) {
      if (isListener(handed)) void this.#accept(handed, connect, log);
    }
  }

  /** The process has ended: closes the listening sockets, and resolves when everything that it has written is out. */
  async drain(): Promise<void> {
    this.#isOver = true;
    for (const handed of this.#handed) if (isListener(handed)) this.#close(handed.fd);
    this.#makeRoom();
    while (this.#outputs.size > 0) await Promise.all(this.#outputs);
  }

  /** Breaks what is open. */
  [Symbol.dispose](): void {
    this.#isOver = true;
    this.#closing.abort();
    for (const fd of this.#open) this.#close(fd);
    for (const stream of this.#streams) stream.destroy();
    this.#makeRoom();
  }

  async #accept(handed: Handed, connect: ConnectDescriptor, log: Log): Promise<void> {
    const native = loadNative();
    while (await this.#isWaiting(handed.fd)) {
      try {
        const fd = native.acceptStream(handed.fd);
        if (fd === null) continue;
        const client = new Socket({ fd, allowHalfOpen: true });
        if (handed.guest.kind !== "unix-listener") client.setNoDelay(true);
        void this.#link(client, handed, connect, log);
      } catch (error) {
        log.warn({ error: describe(error) }, "cannot accept a connection");
        await sleep(acceptPauseMs, undefined, { ref: false });
      }
    }
  }

  /** Whether there may be a connection to accept, and room for it; false when nobody listens any more. */
  async #isWaiting(fd: number): Promise<boolean> {
    if (this.#isOver || !(await loadNative().waitReadable(fd))) return false;
    while (!this.#isOver && this.#streams.size >= maxConnections) {
      await this.#room.promise;
    }
    return !this.#isOver;
  }

  /** Joins a stream of the host, which it owns, to the guest's. Never rejects. */
  async #link(
    client: Socket,
    { number, guest: { kind } }: Handed,
    connect: ConnectDescriptor,
    log: Log,
  ): Promise<void> {
    const settle = this.#track(client);
    if (kind === "pipe-reader") settle();
    const open = () => connect(number, this.#closing.signal);
    try {
      if (kind === "pipe-reader" || kind === "pipe-writer") joinPipe(kind, client, await open());
      else await forwardConnection(client, open);
    } catch (error) {
      log.debug({ fd: number, error: describe(error) }, "a connection to a descriptor was closed");
      client.destroy();
    }
  }

  /** Knows the stream until it is closed. To be called when nothing more is to be written to it. */
  #track(client: Socket): () => void {
    this.#streams.add(client);
    const written = Promise.withResolvers<void>();
    this.#outputs.add(written.promise);
    const settle = () => {
      written.resolve();
      this.#outputs.delete(written.promise);
    };
    client.on("error", () => client.destroy());
    client.once("finish", settle);
    client.once("close", () => {
      settle();
      this.#streams.delete(client);
      this.#makeRoom();
    });
    return settle;
  }

  #makeRoom(): void {
    this.#room.resolve();
    this.#room = Promise.withResolvers<void>();
  }

  /** A stream over the descriptor, which owns it from now on. */
  #take({ fd, guest: { kind } }: Handed): Socket {
    this.#open.delete(fd);
    return new Socket({
      fd,
      allowHalfOpen: true,
      readable: kind !== "pipe-writer",
      writable: kind !== "pipe-reader",
    });
  }

  #close(fd: number): void {
    if (!this.#open.delete(fd)) return;
    loadNative().cancelWait(fd);
    closeSync(fd);
  }
}

function isListener({ guest }: Pick<Handed, "guest">): boolean {
  return guest.kind.endsWith("-listener");
}

/** One direction of bytes. A side that breaks closes the other one. */
function joinPipe(kind: "pipe-reader" | "pipe-writer", client: Socket, guest: Duplex): void {
  guest.on("error", () => client.destroy());
  client.once("close", () => {
    if (kind === "pipe-writer" || !client.readableEnded) guest.destroy();
  });
  if (client.destroyed) {
    guest.destroy();
  } else if (kind === "pipe-reader") {
    // Nothing comes back.
    guest.resume();
    client.pipe(guest);
  } else {
    guest.end();
    guest.pipe(client);
  }
}
