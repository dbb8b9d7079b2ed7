import type { Socket } from "node:net";
import { describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { listenOnLoopback } from "../network/loopback.ts";
import type { GuestConnections } from "./connections.ts";
import { forwardConnection } from "./forward.ts";

export interface PortForwardRequest {
  readonly netnsPath: string;
  /** Resolves when the guest can be connected to; connections wait for it. */
  readonly connections: Promise<GuestConnections>;
  readonly log: Log;
}

/**
 * Leads connections to the loopback of the sandbox's namespace on the host to the same port of the guest's loopback, as CRI's
 * port-forward expects. What is refused in the guest is reset here. Only the host opens connections this way.
 *
 * A host whose kernel cannot do it is warned about once per sandbox, which works without.
 */
export function forwardLoopback({ netnsPath, connections, log }: PortForwardRequest): AsyncDisposable {
  const clients = new Set<Socket>();
  const closing = new AbortController();
  const onConnection = (client: Socket, port: number) => {
    clients.add(client);
    client.once("close", () => clients.delete(client));
    const connect = async () => await (await connections).connect({ tag: "port", port }, closing.signal);
    void forwardConnection(client, connect).catch((error: unknown) => {
      log.debug({ port, error: describe(error) }, "a forwarded connection was reset");
    });
  };
  const listener = tryListen(netnsPath, onConnection, log);
  return {
    [Symbol.asyncDispose]: async () => {
      closing.abort();
      await listener?.[Symbol.asyncDispose]();
      for (const client of clients) client.resetAndDestroy();
    },
  };
}

function tryListen(
  netnsPath: string,
  onConnection: (client: Socket, port: number) => void,
  log: Log,
): AsyncDisposable | undefined {
  try {
    return listenOnLoopback(netnsPath, onConnection);
  } catch (error) {
    log.warn({ error: describe(error) }, "port-forward does not reach the guest");
    return undefined;
  }
}
