/**
 * AF_VSOCK over the kernel's loopback, run in the lab by `node --test`: no other machine here has vsock. Sizes and numbers
 * are for an emulated CPU, and nothing is asserted about time but that there is an end.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { setImmediate as tick } from "node:timers/promises";
import { onBytes } from "../../../src/base/direct-reads.ts";
import { loadNative } from "../../../src/base/native.ts";
import { type ListenOptions, localCid, VsockServer, VsockSocket } from "../../../src/base/vsock.ts";

const megabyte = 1024 ** 2;
const transferBytes = 64 * megabyte;
const connectTimeoutMs = 120_000;

interface Echo extends AsyncDisposable {
  readonly port: number;
  /** The next connection that is accepted. */
  next(): Promise<VsockSocket>;
}

function serve(options: ListenOptions = {}): Echo {
  const server = VsockServer.listen(options);
  return {
    port: server.address.port,
    next: async () => (await once(server, "connection"))[0] as VsockSocket,
    [Symbol.asyncDispose]: () => server.close(),
  };
}

function dial(port: number, allowHalfOpen = false): Promise<VsockSocket> {
  return VsockSocket.connect({ cid: localCid, port }, { timeoutMs: connectTimeoutMs, allowHalfOpen });
}

async function pair(options: ListenOptions = {}): Promise<[VsockSocket, VsockSocket]> {
  await using server = serve(options);
  const [accepted, dialled] = await Promise.all([server.next(), dial(server.port, options.allowHalfOpen)]);
  return [dialled, accepted];
}

/** Writes 64 MiB of known bytes and ends; resolves with their hash. */
async function send(socket: VsockSocket): Promise<string> {
  const hash = createHash("sha256");
  const block = randomBytes(megabyte);
  for (let sent = 0; sent < transferBytes; sent += block.length) {
    block.writeUInt32BE(sent, 0);
    const copy = Buffer.from(block);
    hash.update(copy);
    if (!socket.write(copy)) await once(socket, "drain");
  }
  socket.end();
  return hash.digest("hex");
}

async function receive(socket: VsockSocket): Promise<{ hash: string; bytes: number }> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { hash: hash.digest("hex"), bytes };
}

void test("a direct socket reads into its buffer, waits while it is paused, and writes like any other", async () => {
  await using server = serve();
  const address = { cid: localCid, port: server.port };
  const dialling = VsockSocket.connect(address, { timeoutMs: connectTimeoutMs, isDirect: true });
  const [accepted, direct] = await Promise.all([server.next(), dialling]);
  const sending = send(accepted);
  const hash = createHash("sha256");
  let bytes = 0;
  onBytes(direct, (chunk) => {
    hash.update(chunk);
    bytes += chunk.length;
    direct.pause();
    setImmediate(() => direct.resume());
  });
  direct.resume();
  direct.write("taken");

  assert.equal((await once(accepted, "data"))[0].toString(), "taken");
  accepted.resume();
  const [sent] = await Promise.all([sending, once(direct, "close")]);
  assert.deepEqual({ hash: hash.digest("hex"), bytes }, { hash: sent, bytes: transferBytes });
});

void test("64 MiB each way at the same time arrive as they were sent", async () => {
  const [left, right] = await pair({ allowHalfOpen: true });

  const begin = performance.now();
  const [sentLeft, sentRight, atRight, atLeft] = await Promise.all([
    send(left),
    send(right),
    receive(right),
    receive(left),
  ]);

  assert.deepEqual(atRight, { hash: sentLeft, bytes: transferBytes });
  assert.deepEqual(atLeft, { hash: sentRight, bytes: transferBytes });
  const seconds = (performance.now() - begin) / 1000;
  console.log(`figure: loopback, both ways ${((2 * 64) / seconds).toFixed(1)} MiB/s`);
});

void test("the peer's cid and port are known on both sides", async () => {
  await using server = serve();
  const [accepted, dialled] = await Promise.all([server.next(), dial(server.port)]);

  assert.deepEqual([dialled.cid, dialled.port], [localCid, server.port]);
  assert.equal(accepted.cid, localCid);
  assert.ok(accepted.port > 0);
  dialled.destroy();
  accepted.destroy();
});

void test("1,000 connections, each with its own bytes, and no descriptor stays", async () => {
  const before = readdirSync("/proc/self/fd").length;
  const server = VsockServer.listen();
  server.on("connection", (socket) => socket.pipe(socket));
  const inFlight = 50;
  let next = 0;
  const worker = async () => {
    while (next < 1000) {
      const text = `connection ${next++}`;
      const socket = await dial(server.address.port);
      socket.end(text);
      let answer = "";
      for await (const chunk of socket as AsyncIterable<Buffer>) answer += chunk.toString();
      assert.equal(answer, text);
    }
  };

  await Promise.all(Array.from({ length: inFlight }, worker));
  await server.close();

  assert.equal(next, 1000);
  for (let turn = 0; turn < 100 && readdirSync("/proc/self/fd").length > before + 4; turn++) await tick();
  // The thread that waits has its own, made at the first connection.
  assert.ok(readdirSync("/proc/self/fd").length <= before + 4);
});

void test("a reader that does not read holds up its own writer, and no other connection", async () => {
  const [slow, writer] = await pair();
  const [fast, other] = await pair();
  slow.pause();

  let written = 0;
  while (writer.write(Buffer.alloc(64 * 1024)) && written < transferBytes) written += 64 * 1024;
  assert.ok(written < transferBytes, "the writer was never told to wait");
  other.end("through");
  assert.equal((await receive(fast)).bytes, 7);

  // Going on, everything comes.
  writer.end();
  const { bytes } = await receive(slow);
  assert.equal(bytes, written + 64 * 1024);
});

void test("half-close: what comes after the own end is still read", async () => {
  const [left, right] = await pair({ allowHalfOpen: true });

  left.end("question");
  const question = await receive(right);
  right.end("answer");

  assert.equal(question.bytes, 8);
  assert.equal((await receive(left)).bytes, 6);
});

void test("a peer that goes away in the middle ends the connection, read and write", async () => {
  const [left, right] = await pair();
  left.on("error", () => {});
  left.write(Buffer.alloc(megabyte));
  right.destroy();

  // Ends or fails, by what was in flight; it does not hang.
  const closed = new Promise<void>((resolve) => left.once("close", () => resolve()));
  left.resume();
  await closed;

  assert.ok(left.destroyed);
});

void test("nobody listens: ECONNRESET; no such CID: ENODEV; the port is taken: EADDRINUSE", async () => {
  await using server = serve();
  const { port } = server;

  await assert.rejects(VsockSocket.connect({ cid: localCid, port: 4 }), {
    code: "unavailable",
    message: /ECONNRESET/,
  });
  await assert.rejects(VsockSocket.connect({ cid: 0x7fff_0000, port }), {
    code: "unavailable",
    message: /ENODEV/,
  });
  assert.throws(() => VsockServer.listen({ port }), { code: "unavailable", message: /EADDRINUSE/ });
});

void test("a connect that gets no answer ends with its deadline", async () => {
  // The CID of a guest that has not booted: what is sent to it waits.
  const cid = 77_777;
  const device = loadNative().openVhostVsock(cid);

  await assert.rejects(VsockSocket.connect({ cid, port: 1024 }, { timeoutMs: 500 }), {
    code: "deadline_exceeded",
  });

  closeSync(device);
});

void test("a CID is taken once", () => {
  const cid = 77_778;
  const device = loadNative().openVhostVsock(cid);

  assert.throws(() => loadNative().openVhostVsock(cid), { code: "EADDRINUSE" });

  closeSync(device);
  closeSync(loadNative().openVhostVsock(cid));
});

void test("an aborted connect rejects with the reason and leaves no descriptor", async () => {
  await using server = serve();
  const before = readdirSync("/proc/self/fd").length;
  const reason = new Error("no longer wanted");

  await assert.rejects(
    VsockSocket.connect({ cid: localCid, port: server.port }, { signal: AbortSignal.abort(reason) }),
    reason,
  );
  assert.equal(readdirSync("/proc/self/fd").length, before);
});

void test("connections of unwanted peers are closed", async () => {
  await using server = serve({ acceptsPeer: () => false });
  const socket = await dial(server.port);
  socket.on("error", () => {});

  const { bytes } = await receive(socket).catch(() => ({ bytes: 0 }));

  assert.equal(bytes, 0);
});

void test("round trips of one byte", async () => {
  const [left, right] = await pair();
  right.pipe(right);
  const times: number[] = [];
  for (let round = 0; round < 500; round++) {
    const begin = performance.now();
    left.write("x");
    await once(left, "data");
    times.push(performance.now() - begin);
  }
  left.destroy();

  times.sort((a, b) => a - b);
  console.log(`figure: loopback, round trip median ${times[250]?.toFixed(2)} ms`);
  assert.equal(times.length, 500);
});
