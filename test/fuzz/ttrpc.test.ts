import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { ttrpc } from "../../src/gen/ttrpc.js";
import { encodeFrame, type Frame, FrameDecoder, maxDataLength } from "../../src/ttrpc/frame.ts";
import { serviceName, startEchoServer } from "../peer/ttrpc/echo-server.ts";
import { connectRaw, requestFrame } from "../peer/ttrpc/raw-client.ts";
import { bytes, cuts, cutUp, nearly } from "./bytes.ts";

const frame = fc.record({
  streamId: fc.nat({ max: 0xffff_ffff }),
  type: fc.nat({ max: 255 }),
  flags: fc.nat({ max: 255 }),
  data: bytes(300),
});

function decode(chunks: readonly Buffer[]): { frames: Frame[]; midFrame: boolean } {
  const decoder = new FrameDecoder();
  const frames = chunks.flatMap((chunk) => [...decoder.push(chunk)]);
  return { frames, midFrame: decoder.midFrame };
}

test("frames are the same however they are cut", () => {
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 6 }), cuts, (sent, places) => {
      const wire = Buffer.concat(sent.map(({ data, ...header }) => encodeFrame(header, data)));

      const received = decode(cutUp(wire, places));

      expect(received).toEqual({ frames: sent, midFrame: false });
    }),
  );
});

/** A header that may lie about its length, and some bytes behind it. */
const lyingFrame = fc
  .tuple(
    fc.oneof(
      fc.nat({ max: 0xffff_ffff }),
      fc.nat({ max: 300 }),
      fc.constantFrom(maxDataLength, maxDataLength + 1),
    ),
    bytes(300),
  )
  .map(([length, data]) => {
    const wire = encodeFrame({ streamId: 1, type: 1, flags: 0 }, data);
    wire.writeUInt32BE(length, 0);
    return wire;
  });

test("garbage: the cuts change nothing, and memory follows the bytes that came", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(bytes(100), lyingFrame), { maxLength: 6 }), cuts, (parts, places) => {
      const wire = Buffer.concat(parts);
      const allocations: number[] = [];
      const allocate = Buffer.allocUnsafe.bind(Buffer);
      const spy = vi.spyOn(Buffer, "allocUnsafe").mockImplementation((size) => {
        allocations.push(size);
        return allocate(size);
      });
      let whole: ReturnType<typeof decode>;
      try {
        whole = decode([wire]);
      } finally {
        spy.mockRestore();
      }

      expect(decode(cutUp(wire, places))).toEqual(whole);
      expect(Math.max(0, ...allocations)).toBeLessThanOrEqual(64 * 1024 + 2 * wire.length);
    }),
  );
});

const request = fc
  .record({
    service: fc.oneof(fc.constant(serviceName), fc.string()),
    method: fc.oneof(fc.constantFrom("Echo", "Fail"), fc.string()),
    payload: nearly(fc.constant(ttrpc.KeyValue.encode({ key: "k", value: "v" }).finish())),
  })
  .map((fields) => ttrpc.Request.encode(fields).finish());

const wireRequest = fc
  .record({
    streamId: fc.nat({ max: 100_000 }),
    type: fc.oneof({ weight: 5, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.nat({ max: 255 }) }),
    flags: fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat({ max: 255 }) }),
    data: nearly(request),
  })
  .map(({ data, ...header }) => encodeFrame(header, data));

test("a server that is sent anything serves the next client, and has found no bug of its own", async () => {
  await using server = await startEchoServer({ frameTimeoutMs: 200 });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.oneof(wireRequest, bytes(50)), { maxLength: 10 }), async (parts) => {
      await using client = await connectRaw(server.path);
      client.send(Buffer.concat(parts));
      await using other = await connectRaw(server.path);
      other.send(requestFrame(1));

      expect(await other.status()).toMatchObject({ streamId: 1, code: 0 });
      // "Fail" throws what the request says; anything else would be ours.
      for (const error of server.internalErrors.splice(0)) {
        expect(error).toBeInstanceOf(Error);
        expect(error).not.toBeInstanceOf(RangeError);
      }
    }),
  );
});
