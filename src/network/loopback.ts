import { createServer, type Socket } from "node:net";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import { loadNative } from "../base/native.ts";
import { closeFd } from "./network.ts";

/** Per address family. */
const maxConnections = 256;

/**
 * Takes every TCP connection that is made inside a network namespace to 127.0.0.1 or ::1, whatever its port; what listens
 * there itself gets none. It ends with the result being disposed of, or with the process.
 *
 * @param onConnection  gets a paused socket, which it owns, and the port that the client asked for
 * @throws unavailable  the kernel cannot do it (it takes Linux 5.9 with BPF) or does not let us
 * @throws not_found    no namespace at the path
 */
export function listenOnLoopback(
  netnsPath: string,
  onConnection: (client: Socket, port: number) => void,
): AsyncDisposable {
  const { listeners, link } = listen(netnsPath);
  const servers = listeners.map((fd) => {
    const options = { allowHalfOpen: true, pauseOnConnect: true, noDelay: true };
    // A socket that was chosen by a BPF program has the local address that its client connected to.
    const server = createServer(options, (client) => onConnection(client, client.localPort ?? 0));
    server.maxConnections = maxConnections;
    // Of one connection that could not be accepted; the client sees it closed.
    server.on("error", () => {});
    // It serves as long as something else keeps the program running.
    return server.listen({ fd }).unref();
  });
  return {
    [Symbol.asyncDispose]: async () => {
      for (const server of servers) server.close();
      await closeFd(link);
    },
  };
}

function listen(netnsPath: string) {
  const native = loadNative();
  try {
    return native.listenLoopback(netnsPath);
  } catch (cause) {
    const code = errnoOf(cause) === "ENOENT" ? systemErrorCode(cause) : "unavailable";
    throw new RuntimeError(code, `Cannot listen on the loopback of network namespace "${netnsPath}"`, {
      cause,
    });
  }
}
