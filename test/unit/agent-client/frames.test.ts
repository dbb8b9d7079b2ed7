import { expect, test } from "vitest";
import {
  encodeFrames,
  endFrame,
  FrameDecoder,
  frameParts,
  maxFrameBytes,
  maxPayloadBytes,
} from "../../../src/agent-client/frames.ts";

const exitMark = Buffer.alloc(4, 0xff);

/** What a decoder says of these chunks: payloads joined between marks. */
function decode(chunks: readonly Buffer[]): string[] {
  const seen: string[] = [];
  const decoder = new FrameDecoder({
    onData: (payload) => {
      if (seen.at(-1)?.startsWith("data ")) seen[seen.length - 1] += payload.toString("latin1");
      else seen.push(`data ${payload.toString("latin1")}`);
    },
    onExitMark: () => seen.push("mark"),
    onEnd: () => seen.push("end"),
  });
  for (const chunk of chunks) decoder.push(chunk);
  return seen;
}

function cut(bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
    bytes.subarray(index * size, (index + 1) * size),
  );
}

test.each([1, 2, 3, 4, 5, 7, 1_000, 65_536])("a stream in chunks of %i bytes is decoded the same", (size) => {
  const stream = Buffer.concat([
    ...encodeFrames(Buffer.from("first")),
    ...encodeFrames(Buffer.from("second")),
    exitMark,
    ...encodeFrames(Buffer.from("of a child")),
    exitMark,
    endFrame,
  ]);

  expect(decode(cut(stream, size))).toEqual(["data firstsecond", "mark", "data of a child", "mark", "end"]);
});

test("encodeFrames() cuts at what is safe for one write, and what it makes is decoded to the same bytes", () => {
  for (const length of [
    0,
    1,
    maxPayloadBytes - 1,
    maxPayloadBytes,
    maxPayloadBytes + 1,
    3 * maxPayloadBytes + 5,
  ]) {
    const data = Buffer.alloc(length, "x");
    const frames = encodeFrames(data);

    expect(frames.every((frame) => frame.length <= 32 * 1024)).toBe(true);
    expect(frames.length).toBe(Math.ceil(length / maxPayloadBytes));
    expect(decode(frames)).toEqual(length === 0 ? [] : [`data ${data.toString("latin1")}`]);
  }
  expect(encodeFrames(Buffer.from("ab"))).toEqual([Buffer.from([0, 0, 0, 2, 97, 98])]);
});

test("frameParts() makes frames of the greatest length, whose payloads are the data itself", () => {
  for (const length of [0, 1, maxFrameBytes - 1, maxFrameBytes, maxFrameBytes + 1, 2 * maxFrameBytes]) {
    const data = Buffer.alloc(length, "x");
    const parts = frameParts(data);

    expect(parts.length).toBe(2 * Math.ceil(length / maxFrameBytes));
    expect(decode(parts)).toEqual(length === 0 ? [] : [`data ${data.toString("latin1")}`]);
    expect(parts.every((part, index) => index % 2 === 0 || part.buffer === data.buffer)).toBe(true);
  }
});

test("a frame of just the limit is accepted, one more is refused before it is taken", () => {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(32 * 1024);
  expect(decode([header, Buffer.alloc(32 * 1024, "x")])).toEqual([`data ${"x".repeat(32 * 1024)}`]);

  for (const length of [32 * 1024 + 1, 4 * 1024 * 1024, 0x7fff_ffff, 0xffff_fffe]) {
    header.writeUInt32BE(length);
    expect(() => decode([header])).toThrow(`a frame of ${length} bytes`);
  }
});

test("bytes behind the end are refused, in the same chunk and in the next one", () => {
  expect(() => decode([Buffer.concat([endFrame, Buffer.from([0])])])).toThrow("bytes after its end");
  expect(() => decode([endFrame, endFrame])).toThrow("bytes after its end");
  expect(decode([endFrame, Buffer.alloc(0)])).toEqual(["end"]);
});
