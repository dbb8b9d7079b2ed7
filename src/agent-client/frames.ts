/**
 * Frames of a stdio stream: a 4-byte big-endian length of 1..32768 and that many bytes. Length 0 ends the stream.
 * Length 2^32-1 marks that the process has exited and that everything it wrote itself stands before the mark (what
 * follows comes from children that it left behind). See the head of agent.proto.
 */
import { RuntimeError } from "../base/errors.ts";

export const maxFrameBytes = 32 * 1024;
const headerBytes = 4;
/** Payload that keeps header and payload within one write of 32 KiB (larger vsock packets are not safe). */
export const maxPayloadBytes = maxFrameBytes - headerBytes;
const exitMark = 0xffff_ffff;

export interface FrameSink {
  onData(payload: Buffer): void;
  onExitMark(): void;
  onEnd(): void;
}

/** Cuts a byte stream into frames without copying payloads; a payload may be delivered in pieces. */
export class FrameDecoder {
  readonly #sink: FrameSink;
  #header = Buffer.alloc(headerBytes);
  #headerLength = 0;
  #payloadLeft = 0;
  #ended = false;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  /** @throws internal  a length beyond the limit, or bytes after the end */
  push(chunk: Buffer): void {
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#ended)
        throw new RuntimeError("internal", "Cannot read a stream of the guest: bytes after its end");
      if (this.#payloadLeft > 0) {
        const piece = chunk.subarray(offset, offset + this.#payloadLeft);
        this.#payloadLeft -= piece.length;
        offset += piece.length;
        this.#sink.onData(piece);
      } else {
        const copied = chunk.copy(
          this.#header,
          this.#headerLength,
          offset,
          offset + headerBytes - this.#headerLength,
        );
        this.#headerLength += copied;
        offset += copied;
        if (this.#headerLength === headerBytes) this.#onHeader(this.#header.readUInt32BE(0));
      }
    }
  }

  #onHeader(length: number): void {
    this.#headerLength = 0;
    if (length === exitMark) {
      this.#sink.onExitMark();
    } else if (length === 0) {
      this.#ended = true;
      this.#sink.onEnd();
    } else if (length > maxFrameBytes) {
      throw new RuntimeError(
        "internal",
        `Cannot read a stream of the guest: a frame of ${length} bytes, at most ${maxFrameBytes} are allowed`,
      );
    } else {
      this.#payloadLeft = length;
    }
  }
}

/** The bytes that carry `data`, cut into frames of at most one safe write each. */
export function encodeFrames(data: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let offset = 0; offset < data.length; offset += maxPayloadBytes) {
    const payload = data.subarray(offset, offset + maxPayloadBytes);
    const frame = Buffer.allocUnsafe(headerBytes + payload.length);
    frame.writeUInt32BE(payload.length, 0);
    payload.copy(frame, headerBytes);
    frames.push(frame);
  }
  return frames;
}

/** The same without copying: heads and parts of `data` in turn, for one write. */
export function frameParts(data: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  for (let offset = 0; offset < data.length; offset += maxFrameBytes) {
    const payload = data.subarray(offset, offset + maxFrameBytes);
    parts.push(payload.length === maxFrameBytes ? fullHead : headOf(payload.length), payload);
  }
  return parts;
}

function headOf(length: number): Buffer {
  const head = Buffer.allocUnsafe(headerBytes);
  head.writeUInt32BE(length, 0);
  return head;
}

const fullHead = headOf(maxFrameBytes);

/** The frame that ends a stream. */
export const endFrame: Buffer = Buffer.alloc(headerBytes);
