// The rows of the ttrpc group of the list of bad input, by their numbers there.
import { expect, test } from "vitest";
import { int64 } from "../../../src/gen/int64.ts";
import { ttrpc } from "../../../src/gen/ttrpc.js";
import { encodeFrame } from "../../../src/ttrpc/frame.ts";
import { startEchoServer } from "./echo-server.ts";
import { connectRaw, requestFrame } from "./raw-client.ts";

const headerOf = (length: number, streamId: number, type = 1, flags = 0) => {
  const header = encodeFrame({ streamId, type, flags }, new Uint8Array());
  header.writeUInt32BE(length, 0);
  return header;
};
const requestOf = (streamId: number, data: Uint8Array) => encodeFrame({ streamId, type: 1, flags: 0 }, data);
const tooLong = 4 * 1024 * 1024 + 1;

interface Row {
  readonly name: string;
  readonly send: readonly Uint8Array[];
  /** Stream id, code, and part of the message of each answer; refusals come before what a handler answers. */
  readonly answers: readonly (readonly [number, number, string])[];
}

/** Bad requests that are answered; afterwards the connection still serves. */
const rows: readonly Row[] = [
  {
    name: "26 a frame of 4 MiB + 1",
    send: [headerOf(tooLong, 1), Buffer.alloc(tooLong)],
    answers: [[1, 8, "4 MiB"]],
  },
  {
    name: "28 a length whose first byte is not 0",
    send: [headerOf(0x0100_0000, 1), Buffer.alloc(0x0100_0000)],
    answers: [[1, 8, ""]],
  },
  { name: "29 an even stream id", send: [requestFrame(2)], answers: [[2, 3, "must be odd"]] },
  { name: "29 stream id 0", send: [requestFrame(0)], answers: [[0, 3, "must be odd"]] },
  {
    name: "30 a stream id again, and a lower one",
    send: [requestFrame(5), requestFrame(5), requestFrame(3)],
    answers: [
      [5, 3, "must increment"],
      [3, 3, "must increment"],
      [5, 0, ""],
    ],
  },
  {
    name: "32 data for a stream that is not open",
    send: [requestFrame(9, {}, { type: 3 })],
    answers: [[9, 3, "not open"]],
  },
  {
    name: "33 unknown types of frames",
    send: [0, 4, 255].map((type) => requestFrame(1, {}, { type })),
    answers: [],
  },
  { name: "34 unknown flags", send: [requestFrame(1, {}, { flags: 0xfc })], answers: [[1, 0, ""]] },
  {
    name: "34 streaming flags",
    send: [requestFrame(1, {}, { flags: 1 }), requestFrame(3, {}, { flags: 2 })],
    answers: [
      [1, 12, "unary"],
      [3, 12, "unary"],
    ],
  },
  {
    name: "37 what is no Request",
    send: [requestOf(1, Buffer.from("ffffff", "hex"))],
    answers: [[1, 3, "unmarshal"]],
  },
  {
    name: "37 a payload that is no message",
    send: [requestFrame(1, { payload: Buffer.from("0aff", "hex") })],
    answers: [[1, 3, "decode"]],
  },
  {
    name: "37 text that is not UTF-8",
    send: [requestFrame(1, { payload: Buffer.from("0a02fffe", "hex") })],
    answers: [[1, 3, "decode"]],
  },
  { name: "38 an empty Request", send: [requestOf(1, new Uint8Array())], answers: [[1, 12, "service "]] },
  {
    name: "39 an unknown service",
    send: [requestFrame(1, { service: "x" })],
    answers: [[1, 12, "service x"]],
  },
  { name: "40 an unknown method", send: [requestFrame(1, { method: "x" })], answers: [[1, 12, "method x"]] },
  {
    name: "40 a method that is a name of every object",
    send: [requestFrame(1, { method: "constructor" })],
    answers: [[1, 12, "method constructor"]],
  },
  {
    name: "43 a million empty fields",
    send: [requestFrame(1, { payload: Buffer.alloc(2_000_000, "1a00", "hex") })],
    answers: [[1, 8, "fields"]],
  },
  {
    name: "44 a negative timeout",
    send: [requestFrame(1, { timeoutNano: int64(-1n) })],
    answers: [[1, 0, ""]],
  },
  {
    name: "44 the greatest timeout",
    send: [requestFrame(1, { timeoutNano: int64(2n ** 63n - 1n) })],
    answers: [[1, 0, ""]],
  },
  {
    name: "45 a hundred thousand metadata entries",
    send: [requestFrame(1, { metadata: Array.from({ length: 100_000 }, () => ({ key: "k", value: "v" })) })],
    answers: [[1, 8, "fields"]],
  },
  { name: "49 a response", send: [requestFrame(1, {}, { type: 2 })], answers: [] },
];

test.for(rows)("the server takes $name and goes on", async ({ send, answers }) => {
  await using server = await startEchoServer();
  await using client = await connectRaw(server.path);

  for (const bytes of send) client.send(bytes);
  for (const [streamId, code, message] of answers) {
    const status = await client.status();
    expect(status).toMatchObject({ streamId, code });
    expect(status.message).toContain(message);
  }

  client.send(requestFrame(4_000_001));
  expect(await client.status()).toMatchObject({ streamId: 4_000_001, code: 0 });
  expect(server.internalErrors).toEqual([]);
});

test("41 unknown fields are not echoed", async () => {
  await using server = await startEchoServer();
  await using client = await connectRaw(server.path);

  client.send(requestFrame(1, { payload: Buffer.from("0a0161" + "7a0161", "hex") }));
  const frame = await client.receive();

  const { payload } = ttrpc.Response.decode(frame?.data ?? Buffer.alloc(0));
  expect(Buffer.from(payload).toString("hex")).toBe("0a0161");
});

test("31 after the last possible stream id the connection is refused and ended", async () => {
  await using server = await startEchoServer();
  await using client = await connectRaw(server.path);

  client.send(requestFrame(0xffff_ffff));
  client.send(requestFrame(1));

  expect(await client.status()).toMatchObject({ streamId: 1, code: 3 });
  expect(await client.status()).toMatchObject({ streamId: 0xffff_ffff, code: 0 });
  await client.closed;
});

test("33 a connection that sends nothing but unknown frames is ended", async () => {
  await using server = await startEchoServer();
  await using client = await connectRaw(server.path);

  for (let count = 0; count < 101; count++) client.send(requestFrame(1, {}, { type: 9 }));

  await client.closed;
});

test.for([
  ["27 after a header of 4 GiB", headerOf(0xffff_ffff, 1)],
  ["47 within a header", Buffer.alloc(4)],
  ["47 within the data", headerOf(100, 1)],
] as const)("silence %s ends the connection without memory spent", async ([, bytes]) => {
  await using server = await startEchoServer({ frameTimeoutMs: 100 });
  await using client = await connectRaw(server.path);
  await using idle = await connectRaw(server.path);
  const before = process.memoryUsage().arrayBuffers;

  client.send(bytes);

  await client.closed;
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(8 * 1024 * 1024);
  // Between frames silence is fine.
  idle.send(requestFrame(1));
  expect(await idle.status()).toMatchObject({ code: 0 });
});

test("47 one byte now and then does not keep a frame open", async () => {
  await using server = await startEchoServer({ frameTimeoutMs: 100 });
  await using client = await connectRaw(server.path);
  client.send(headerOf(1000, 1));

  const drip = setInterval(() => client.send(Buffer.alloc(1)), 20);

  await client.closed;
  clearInterval(drip);
});

test("35, 36 a connection cut anywhere in a frame does no harm", async () => {
  await using server = await startEchoServer();
  const frame = requestFrame(1);
  for (let cut = 1; cut < frame.length; cut++) {
    await using client = await connectRaw(server.path);
    client.send(frame.subarray(0, cut));
    client.end();
    await client.closed;
  }

  await using last = await connectRaw(server.path);
  last.send(frame);
  expect(await last.status()).toMatchObject({ code: 0 });
  expect(server.internalErrors).toEqual([]);
});

test("46 calls beyond 256 are refused, waiting calls do not count and are not starved", async () => {
  await using server = await startEchoServer();
  await using client = await connectRaw(server.path);
  let streamId = 1;
  const send = (method: string) => {
    client.send(requestFrame(streamId, { method }));
    streamId += 2;
  };

  for (let count = 0; count < 1000; count++) send("Wait");
  for (let count = 0; count < 256; count++) send("Hang");
  for (let count = 0; count < 3; count++) send("Echo");

  for (let count = 0; count < 3; count++) expect(await client.status()).toMatchObject({ code: 8 });
  await using other = await connectRaw(server.path);
  other.send(requestFrame(1));
  expect(await other.status()).toMatchObject({ code: 0 });
  await client[Symbol.asyncDispose]();
  await expect.poll(() => server.aborted.length).toBe(1256);
});

test("a client that does not read its answers is not read from, and memory stays", async () => {
  await using server = await startEchoServer();
  await using client = await connectRaw(server.path);
  const { connect } = await import("node:net");
  const deaf = connect({ path: server.path });
  deaf.pause();
  const payload = ttrpc.KeyValue.encode({ value: "x".repeat(1024 * 1024) }).finish();
  const before = process.memoryUsage().arrayBuffers;

  // 256 MiB would come back if all were read; the kernel's buffers and ours hold what is sent here only partly.
  let isBlocked = false;
  for (let streamId = 1; streamId < 512 && !isBlocked; streamId += 2) {
    isBlocked =
      !deaf.write(requestFrame(streamId, { payload })) &&
      (await new Promise<boolean>((resolve) => {
        const timer = setTimeout(() => resolve(true), 300);
        deaf.once("drain", () => {
          clearTimeout(timer);
          resolve(false);
        });
      }));
  }

  expect(isBlocked).toBe(true);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 * 1024);
  deaf.destroy();
  client.send(requestFrame(1));
  expect(await client.status()).toMatchObject({ code: 0 });
});
