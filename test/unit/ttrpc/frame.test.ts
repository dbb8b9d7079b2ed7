import { expect, test } from "vitest";
import { ttrpc } from "../../../src/gen/ttrpc.js";
import { encodeFrame, type Frame, FrameDecoder, maxDataLength } from "../../../src/ttrpc/frame.ts";

const hex = (text: string) => Buffer.from(text.replace(/\s/g, ""), "hex");

// The worked examples of the containerd contract, section 3.2.
const connectRequest = hex(`00 00 00 27 00 00 00 01 01 00
  0a 17 63 6f 6e 74 61 69 6e 65 72 64 2e 74 61 73 6b 2e 76 32 2e 54 61 73 6b
  12 07 43 6f 6e 6e 65 63 74  1a 03 0a 01 61`);
const connectResponse = hex("00 00 00 06 00 00 00 01 02 00  12 04 08 2a 10 2b");
const notFoundResponse = hex("00 00 00 0f 00 00 00 03 02 00  0a 0d 08 05 12 09 6e 6f 74 20 66 6f 75 6e 64");

function decodeAll(...chunks: Buffer[]): Frame[] {
  const decoder = new FrameDecoder();
  return chunks.flatMap((chunk) => [...decoder.push(chunk)]);
}

test("encodeFrame() and Request produce the contract's Connect request", () => {
  const data = ttrpc.Request.encode({
    service: "containerd.task.v2.Task",
    method: "Connect",
    payload: hex("0a 01 61"),
  }).finish();

  expect(encodeFrame({ streamId: 1, type: 1, flags: 0 }, data)).toEqual(connectRequest);
});

test("FrameDecoder reads the contract's answers", () => {
  const [success, failure] = decodeAll(Buffer.concat([connectResponse, notFoundResponse]));

  expect(success).toMatchObject({ streamId: 1, type: 2, flags: 0 });
  expect(Buffer.from(ttrpc.Response.decode(success?.data ?? Buffer.alloc(0)).payload)).toEqual(
    hex("082a102b"),
  );
  expect(failure).toMatchObject({ streamId: 3, type: 2 });
  expect(ttrpc.Response.decode(failure?.data ?? Buffer.alloc(0)).status).toMatchObject({
    code: 5,
    message: "not found",
  });
});

test("FrameDecoder gives the same frames however the bytes are cut", () => {
  const bytes = Buffer.concat([
    connectRequest,
    encodeFrame({ streamId: 3, type: 1, flags: 2 }, Buffer.alloc(0)),
    connectResponse,
  ]);
  const whole = decodeAll(bytes);

  for (let cut = 1; cut < bytes.length; cut++) {
    expect(decodeAll(bytes.subarray(0, cut), bytes.subarray(cut))).toEqual(whole);
  }
  expect(decodeAll(...Array.from(bytes, (byte) => Buffer.from([byte])))).toEqual(whole);
  expect(whole).toHaveLength(3);
});

test("FrameDecoder gives a frame of the greatest length whole", () => {
  const data = Buffer.alloc(maxDataLength, 7);

  const bytes = encodeFrame({ streamId: 1, type: 1, flags: 0 }, data);
  const chunks = Array.from({ length: Math.ceil(bytes.length / 60_000) }, (_, index) =>
    bytes.subarray(index * 60_000, (index + 1) * 60_000),
  );

  expect(decodeAll(...chunks)[0]?.data?.equals(data)).toBe(true);
});

test("FrameDecoder discards a frame that is too large and goes on with the next", () => {
  const header = hex("00 40 00 01 00 00 00 05 01 00");

  const frames = decodeAll(header, Buffer.alloc(maxDataLength), Buffer.alloc(1), connectRequest);

  expect(frames).toHaveLength(2);
  expect(frames[0]).toEqual({ streamId: 5, type: 1, flags: 0, data: undefined });
  expect(frames[1]?.streamId).toBe(1);
});

test("FrameDecoder does not allocate what a header announces", () => {
  const before = process.memoryUsage().arrayBuffers;
  const decoders = Array.from({ length: 200 }, () => new FrameDecoder());

  for (const decoder of decoders) Array.from(decoder.push(hex("00 40 00 00 00 00 00 01 01 00")));

  expect(decoders.every((decoder) => decoder.midFrame)).toBe(true);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 * 1024);
});
