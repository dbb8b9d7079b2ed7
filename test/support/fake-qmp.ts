import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createTempDir } from "./temp-dir.ts";

interface QmpRequest {
  readonly execute: string;
  readonly arguments?: unknown;
  readonly id: number;
}

type Answering = (request: QmpRequest, peer: FakeQmp) => unknown;

/** What is answered to a command: `{ return }` or `{ error }`; a function that returns neither leaves it open. */
type QmpAnswer = object | Answering;

/** A QMP server on a real socket, for one connection. Records what it is asked. */
export interface FakeQmp extends AsyncDisposable {
  /** The client's end. */
  readonly stream: Duplex;
  readonly requests: QmpRequest[];
  /** Writes bytes as they are. */
  send(text: string): void;
  sendEvent(event: string, data?: object): void;
  /** Ends the connection as a dying QEMU does. */
  hangUp(): void;
}

const greeting = {
  QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 }, package: "" }, capabilities: ["oob"] },
};

export async function startFakeQmp(
  answers: Readonly<Record<string, QmpAnswer>> = {},
  options: { greets?: boolean } = {},
): Promise<FakeQmp> {
  const directory = createTempDir();
  const server = createServer();
  server.listen(directory.join("qmp"));
  await once(server, "listening");
  const stream = connect(directory.join("qmp"));
  const [socket] = (await once(server, "connection")) as [Socket];
  server.close();
  const requests: QmpRequest[] = [];
  const send = (text: string) => void socket.write(text);
  const peer: FakeQmp = {
    stream,
    requests,
    send,
    sendEvent: (event, data = {}) =>
      send(`${JSON.stringify({ event, data, timestamp: { seconds: 1, microseconds: 2 } })}\r\n`),
    hangUp: () => socket.destroy(),
    async [Symbol.asyncDispose]() {
      stream.destroy();
      socket.destroy();
      await directory[Symbol.asyncDispose]();
    },
  };
  let text = "";
  socket.on("error", () => {});
  socket.on("data", (chunk) => {
    const lines = (text + chunk.toString()).split("\n");
    text = lines.pop() ?? "";
    for (const line of lines) {
      const request = JSON.parse(line) as QmpRequest;
      requests.push(request);
      const answer = answers[request.execute] ?? { return: {} };
      const reply = typeof answer === "function" ? (answer as Answering)(request, peer) : answer;
      if (typeof reply === "object") send(`${JSON.stringify({ ...reply, id: request.id })}\r\n`);
    }
  });
  if (options.greets ?? true) send(`${JSON.stringify(greeting)}\r\n`);
  return peer;
}
