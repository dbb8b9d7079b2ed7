import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeFrames, endFrame, FrameDecoder, maxFrameBytes } from "../../src/agent-client/frames.ts";
import { dialVsock } from "../../src/agent-client/vsock.ts";
import { RuntimeError } from "../../src/base/errors.ts";
import { createTempDir } from "../support/temp-dir.ts";
import { bytes, cuts, cutUp } from "./bytes.ts";

interface Decoded {
  /** The payload; a mark is noted with its place in it. */
  readonly data: Buffer;
  readonly marks: readonly number[];
  readonly isEnded: boolean;
  readonly error: string | undefined;
}

function decode(chunks: readonly Buffer[]): Decoded {
  const payloads: Buffer[] = [];
  const marks: number[] = [];
  let length = 0;
  let isEnded = false;
  let error: string | undefined;
  const decoder = new FrameDecoder({
    onData: (payload) => {
      length += payload.length;
      payloads.push(payload);
    },
    onExitMark: () => marks.push(length),
    onEnd: () => (isEnded = true),
  });
  try {
    for (const chunk of chunks) decoder.push(chunk);
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(RuntimeError);
    error = (thrown as RuntimeError).message;
  }
  return { data: Buffer.concat(payloads), marks, isEnded, error };
}

/** Writes of up to more than two frames; drawing each byte would take long and find nothing more. */
const writing = fc
  .tuple(fc.nat({ max: 70_000 }), fc.nat({ max: 250 }))
  .map(([length, seed]) => Buffer.from(Uint8Array.from({ length }, (_, index) => (index * seed) % 251)));

test("stdio frames: what was encoded is decoded, however it is cut", () => {
  fc.assert(
    fc.property(fc.array(writing, { maxLength: 3 }), cuts, (writes, places) => {
      const wire = Buffer.concat([...writes.flatMap(encodeFrames), endFrame]);

      expect(decode(cutUp(wire, places))).toEqual({
        data: Buffer.concat(writes),
        marks: [],
        isEnded: true,
        error: undefined,
      });
    }),
  );
});

/** A header of any length, and bytes behind it that need not be as many. */
const frame = fc
  .tuple(
    fc.oneof(
      fc.constantFrom(0, 1, maxFrameBytes, maxFrameBytes + 1, 0xffff_ffff, 0xffff_fffe),
      fc.nat({ max: 40 }),
      fc.nat({ max: 0xffff_ffff }),
    ),
    bytes(60),
  )
  .map(([length, data]) => {
    const header = Buffer.alloc(4);
    header.writeUInt32BE(length);
    return Buffer.concat([header, data.subarray(0, Math.max(0, length === 0xffff_ffff ? 0 : length))]);
  });

test("stdio garbage: the cuts change nothing, and never more comes out than went in", () => {
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 8 }), bytes(20), cuts, (frames, rest, places) => {
      const wire = Buffer.concat([...frames, rest]);

      const whole = decode([wire]);

      expect(decode(cutUp(wire, places))).toEqual(whole);
      expect(whole.data.length).toBeLessThanOrEqual(wire.length);
    }),
  );
});

const dir = createTempDir();
let reply: readonly Buffer[] = [];
let isClosed = false;
const sockets = new Set<Socket>();
const backend = createServer((socket) => {
  sockets.add(socket);
  socket.on("error", () => {}).once("close", () => sockets.delete(socket));
  socket.once("data", () => {
    for (const chunk of reply) socket.write(chunk);
    if (isClosed) socket.end();
  });
});
beforeAll(async () => {
  backend.listen(dir.join("vsock"));
  await once(backend, "listening");
});
afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  backend.close();
  await dir[Symbol.asyncDispose]();
});

const answer = fc.oneof(
  bytes(400),
  fc
    .tuple(fc.constantFrom("OK 1", "OK 4294967295", "OK", "OK 1 ", "ok 1", "OK 12345678901"), bytes(50))
    .map(([line, rest]) => Buffer.concat([Buffer.from(`${line}\n`), rest])),
);

test("the hybrid vsock handshake takes exactly its line and keeps every byte behind it", async () => {
  await fc.assert(
    fc.asyncProperty(answer, cuts, async (said, places) => {
      reply = cutUp(said, places);
      isClosed = true;
      const end = said.indexOf(10);
      const line = end < 0 || end >= 256 ? undefined : said.toString("latin1", 0, end);

      const dialled = await dialVsock(dir.join("vsock"), 1024, new AbortController().signal).catch(
        (error: unknown) => error,
      );

      if (line !== undefined && /^OK \d{1,10}$/.test(line)) {
        const chunks: Buffer[] = [];
        for await (const chunk of dialled as Socket) chunks.push(chunk as Buffer);
        expect(Buffer.concat(chunks)).toEqual(said.subarray(end + 1));
      } else {
        expect(dialled).toBeInstanceOf(RuntimeError);
        expect(dialled).toMatchObject({ code: "unavailable" });
        expect((dialled as RuntimeError).message.length).toBeLessThan(2_000);
      }
    }),
  );
});
