/**
 * As much of an HTTP/1.1 server (RFC 9112) as a scrape needs: one request per connection, its body never read, the answer
 * with its length, then the end. Node's own server costs 2 MiB more in every daemon that is scraped (measured).
 */
import { rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { asError, describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";

interface MetricsAnswer {
  readonly contentType: string;
  readonly text: string;
}

export interface MetricsServerOptions {
  readonly path: string;
  readonly collect: () => Promise<MetricsAnswer>;
  readonly log: Log;
}

export interface MetricsServer {
  /** Removes the socket and ends what is under way. */
  close(): void;
}

const maxConnections = 16;
const maxHeadBytes = 8 * 1024;
/** For a whole scrape, whatever the client does. */
const connectionTimeoutMs = 10_000;
/** Only the owner. */
const socketUmask = 0o177;

/**
 * Serves GET /metrics on a unix socket, mode 0600. A socket that lies there is replaced: only one daemon of a sandbox
 * gets so far. A sandbox without metrics is better than none, so failures are logged and nothing else.
 */
export function serveMetrics({ path, collect, log }: MetricsServerOptions): MetricsServer {
  const connections = new Set<Socket>();
  // A client that half-closes after its request still gets its answer.
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    connections.add(socket);
    const timer = setTimeout(() => socket.destroy(), connectionTimeoutMs);
    socket.once("close", () => {
      clearTimeout(timer);
      connections.delete(socket);
    });
    socket.on("error", () => {
      // The client is gone; nobody else minds.
    });
    serveOne(socket, collect, log);
  });
  server.maxConnections = maxConnections;
  server.on("error", (error) => log.warn({ error: describe(error) }, "metrics are not served"));
  // The socket file is made before listen() returns, so the mask holds for nothing else.
  const umask = process.umask(socketUmask);
  try {
    rmSync(path, { force: true });
    server.listen(path);
  } catch (error) {
    server.emit("error", asError(error));
  } finally {
    process.umask(umask);
  }
  return {
    close: () => {
      // Node removes the socket file.
      server.close();
      for (const socket of connections) socket.destroy();
    },
  };
}

function serveOne(socket: Socket, collect: MetricsServerOptions["collect"], log: Log): void {
  let head = "";
  const onData = (chunk: Buffer) => {
    head += chunk.toString("latin1");
    const isWhole = head.includes("\r\n\r\n");
    if (!isWhole && head.length <= maxHeadBytes) return;
    socket.off("data", onData);
    // What else comes is dropped, so that the client's end is noticed.
    socket.resume();
    const answered = isWhole
      ? answer(head, collect)
      : Promise.resolve(plain("431 Request Header Fields Too Large"));
    void answered
      .catch((error: unknown) => {
        log.warn({ error: describe(error) }, "cannot collect the metrics");
        return plain("500 Internal Server Error");
      })
      .then((response) => socket.end(response));
  };
  socket.on("data", onData);
  socket.once("end", () => {
    if (!head.includes("\r\n\r\n")) socket.destroy();
  });
}

async function answer(head: string, collect: MetricsServerOptions["collect"]): Promise<string> {
  const [, method, target] = /^([A-Z]+) (\S+) HTTP\/1\.[01]\r\n/.exec(head) ?? [];
  if (method === undefined || target === undefined) return plain("400 Bad Request");
  if (method !== "GET" && method !== "HEAD") return plain("405 Method Not Allowed", "Allow: GET, HEAD\r\n");
  if (target.split("?")[0] !== "/metrics") return plain("404 Not Found");
  const { contentType, text } = await collect();
  return response("200 OK", contentType, text, method === "HEAD");
}

function plain(status: string, headers = ""): string {
  return response(status, "text/plain; charset=utf-8", `${status}\n`, false, headers);
}

function response(status: string, contentType: string, text: string, isHead: boolean, headers = ""): string {
  const length = Buffer.byteLength(text);
  const head = `HTTP/1.1 ${status}\r\nContent-Type: ${contentType}\r\nContent-Length: ${length}\r\n${headers}Connection: close\r\n\r\n`;
  return isHead ? head : head + text;
}
