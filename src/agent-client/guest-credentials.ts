import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { CallCredentials, ChannelCredentials } from "@grpc/grpc-js";
import { RuntimeError } from "../base/errors.ts";
import { scope } from "../base/scope.ts";
import { dialGuest, type GuestAddress, handshake } from "./vsock.ts";

/**
 * Plain HTTP/2 over one connection to a guest, as the "credentials" of a gRPC channel: the only place where grpc-js lets
 * anybody else have a word on the connection. It dials `target`, a unix socket. For hybrid vsock that is the
 * backend's, which needs its handshake; for AF_VSOCK it is one of ours that leads nowhere, and the socket to the guest
 * takes the place of what grpc-js has dialled.
 */
export class GuestCredentials extends ChannelCredentials {
  readonly target: string;
  readonly #guest: GuestAddress;
  readonly #port: number;
  readonly #timeoutMs: number;
  #dialled = false;

  constructor(guest: GuestAddress, port: number, timeoutMs: number) {
    super();
    this.#guest = guest;
    this.#port = port;
    this.#timeoutMs = timeoutMs;
    this.target = `unix:${guest.tag === "hybrid" ? guest.path : rendezvousPath(guest)}`;
  }

  override _isSecure(): boolean {
    return false;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(): ReturnType<ChannelCredentials["_createSecureConnector"]> {
    let rendezvous: Server | undefined;
    const endRendezvous = async () => {
      if (rendezvous === undefined || this.#guest.tag === "hybrid") return;
      rendezvous.close();
      await rm(rendezvousPath(this.#guest), { force: true });
    };
    return {
      // Called right before grpc-js dials.
      waitForReady: async () => {
        if (this.#guest.tag === "vsock" && !this.#dialled) rendezvous = await listenFor(this.#guest);
      },
      connect: async (socket: Socket) => {
        await endRendezvous();
        if (this.#dialled)
          throw new RuntimeError("unavailable", "The connection to the guest's agent is gone for good");
        this.#dialled = true;
        using limit = scope(undefined, this.#timeoutMs, "the connection to the guest's agent");
        return { socket: letGo(await this.#reach(socket, limit.signal)), secure: false };
      },
      getCallCredentials: () => CallCredentials.createEmpty(),
      destroy: () => {},
    };
  }

  async #reach(dialled: Socket, signal: AbortSignal): Promise<Socket> {
    if (this.#guest.tag === "hybrid") {
      await handshake(dialled, this.#port, signal);
      return dialled;
    }
    dialled.destroy();
    return await dialGuest(this.#guest, this.#port, signal);
  }
}

/**
 * The connection does not keep this program running, as the stream of events, which never ends, would have it do; a call that somebody
 * waits for has a timer.
 */
function letGo(socket: Socket): Socket {
  socket.ref = () => socket;
  return socket.unref();
}

type VsockGuest = Extract<GuestAddress, { tag: "vsock" }>;

function rendezvousPath({ directory }: VsockGuest): string {
  return `${directory}/agent`;
}

/** Nothing is ever said on a connection to it. */
async function listenFor(guest: VsockGuest): Promise<Server> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(rendezvousPath(guest), resolve);
  });
  return server;
}
