import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { expect, test } from "vitest";
import { dialVsock } from "../../../src/agent-client/vsock.ts";
import { RuntimeError } from "../../../src/base/errors.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const signal = new AbortController().signal;

/** A backend that does with each connection what the test says. */
async function startBackend(dir: TempDir, serve: (socket: Socket) => void) {
  const path = dir.join("vsock");
  const received: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {}).on("data", (chunk: Buffer) => received.push(chunk));
    serve(socket);
  }).listen(path);
  await once(server, "listening");
  return {
    path,
    received: () => Buffer.concat(received).toString(),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

test("dialVsock() asks for the port and keeps the bytes that come right behind the handshake", async () => {
  await using dir = createTempDir();
  await using backend = await startBackend(dir, (socket) => socket.end("OK 1\nEXTRA"));

  const socket = await dialVsock(backend.path, 1025, signal);

  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  expect(Buffer.concat(chunks).toString()).toBe("EXTRA");
  expect(backend.received()).toBe("CONNECT 1025\n");
});

test("dialVsock() takes a handshake that comes byte by byte", async () => {
  await using dir = createTempDir();
  await using backend = await startBackend(dir, (socket) => {
    socket.setNoDelay();
    const bytes = "OK 4294967295\nx".split("");
    const next = () => {
      const byte = bytes.shift();
      if (byte !== undefined) socket.write(byte, () => setImmediate(next));
    };
    next();
  });

  const socket = await dialVsock(backend.path, 1024, signal);
  const [first] = (await once(socket.resume(), "data")) as [Buffer];

  expect(first.toString()).toBe("x");
  socket.destroy();
});

const refused = [
  { name: "is not OK", reply: "ERR no such port\n", words: 'the backend said "ERR no such port"' },
  { name: "has no number", reply: "OK \n", words: 'the backend said "OK "' },
  { name: "has a huge number", reply: "OK 99999999999\n", words: "the backend said" },
  { name: "has control characters", reply: "OK 1\r\u001b[2J\n", words: String.raw`"OK 1\r\u001b[2J"` },
  {
    name: "has 1 MiB without a line end",
    reply: "x".repeat(1024 * 1024),
    words: "no line end within 256 bytes",
  },
  { name: "has its line end late", reply: `${"x".repeat(4_000)}\n`, words: "no line end within 256 bytes" },
];

test.each(refused)("dialVsock() is refused when the answer $name", async ({ reply, words }) => {
  await using dir = createTempDir();
  await using backend = await startBackend(dir, (socket) => socket.write(reply));

  const error = await dialVsock(backend.path, 1024, signal).catch((reason: unknown) => reason as Error);

  expect(error).toMatchObject({ code: "unavailable", message: expect.stringContaining(words) });
  expect((error as Error).message.length).toBeLessThan(300);
});

test.each([
  { name: "closes", serve: (socket: Socket) => socket.destroy() },
  { name: "closes in the middle of the line", serve: (socket: Socket) => socket.end("OK 1") },
])("dialVsock() fails when the backend $name", async ({ serve }) => {
  await using dir = createTempDir();
  await using backend = await startBackend(dir, serve);

  await expect(dialVsock(backend.path, 1024, signal)).rejects.toMatchObject({ code: "unavailable" });
});

test("dialVsock() fails when there is no backend", async () => {
  await expect(dialVsock("/nonexistent/vsock", 1024, signal)).rejects.toMatchObject({ code: "unavailable" });
});

test("dialVsock() that is given up ends with the signal's reason, and closes its socket once it has an answer", async () => {
  await using dir = createTempDir();
  let answer = () => {};
  const isClosed = Promise.withResolvers<void>();
  await using backend = await startBackend(dir, (socket) => {
    answer = () => socket.write("OK 1\n");
    socket.on("close", isClosed.resolve);
  });
  const before = readdirSync("/proc/self/fd").length;
  const controller = new AbortController();
  const dialling = dialVsock(backend.path, 1024, controller.signal);
  await expect.poll(backend.received).toBe("CONNECT 1024\n");

  controller.abort(new RuntimeError("deadline_exceeded", "too late"));

  await expect(dialling).rejects.toThrow("too late");
  expect(readdirSync("/proc/self/fd").length).toBe(before + 2);
  answer();
  await isClosed.promise;
  // The backend's end closes, too.
  await expect.poll(() => readdirSync("/proc/self/fd").length).toBe(before);
});

test("dialVsock() with a signal that has aborted already connects to nothing that stays", async () => {
  await using dir = createTempDir();
  await using backend = await startBackend(dir, () => {});

  await expect(dialVsock(backend.path, 1, AbortSignal.abort(new Error("gone")))).rejects.toThrow("gone");
});
