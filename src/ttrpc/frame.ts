/**
 * The frames of ttrpc: a 10-byte header and data. Bytes 0-3 of the header are the length of the data (big endian, at
 * most 4 MiB), 4-7 the stream id (odd, rising per connection), 8 the type, 9 flags.
 */

const headerLength = 10;
export const maxDataLength = 4 * 1024 * 1024;

export const frameType = { request: 1, response: 2, data: 3 } as const;
/** On a request: the client will stream. 0 is a unary call. */
export const requestFlags = { remoteClosed: 0x01, remoteOpen: 0x02 } as const;

export interface FrameHeader {
  readonly streamId: number;
  readonly type: number;
  readonly flags: number;
}

/** A frame as it came in; `data` is undefined when it was larger than allowed and has been discarded. */
export interface Frame extends FrameHeader {
  readonly data: Buffer | undefined;
}

/** Header and data in one buffer, so that writes never interleave. `data` must fit (`maxDataLength`). */
export function encodeFrame(header: FrameHeader, data: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(headerLength + data.length);
  frame.writeUInt32BE(data.length, 0);
  frame.writeUInt32BE(header.streamId, 4);
  frame.writeUInt8(header.type, 8);
  frame.writeUInt8(header.flags, 9);
  frame.set(data, headerLength);
  return frame;
}

const firstAllocation = 64 * 1024;

interface Body {
  readonly header: FrameHeader;
  readonly length: number;
  /** Undefined: too large, its bytes are counted and dropped. */
  buffer: Buffer | undefined;
  filled: number;
}

/** Cuts a byte stream into frames. Memory follows the bytes that came, not the length that was announced. */
export class FrameDecoder {
  #header = Buffer.alloc(headerLength);
  #headerFilled = 0;
  #body: Body | undefined;

  /** Whether a frame has begun and is not complete. */
  get midFrame(): boolean {
    return this.#headerFilled > 0;
  }

  /** Takes the next bytes and yields the frames that they complete. Oversized ones come once all was discarded. */
  *push(chunk: Buffer): Generator<Frame> {
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#body === undefined) {
        offset += this.#fillHeader(chunk, offset);
        if (this.#headerFilled < headerLength) return;
        this.#body = startBody(this.#header);
      }
      offset += fillBody(this.#body, chunk, offset);
      if (this.#body.filled < this.#body.length) return;
      const { header, buffer, length } = this.#body;
      this.#body = undefined;
      this.#headerFilled = 0;
      yield { ...header, data: buffer?.subarray(0, length) };
    }
  }

  #fillHeader(chunk: Buffer, offset: number): number {
    const copied = chunk.copy(this.#header, this.#headerFilled, offset);
    this.#headerFilled += copied;
    return copied;
  }
}

function startBody(bytes: Buffer): Body {
  const length = bytes.readUInt32BE(0);
  const header = { streamId: bytes.readUInt32BE(4), type: bytes.readUInt8(8), flags: bytes.readUInt8(9) };
  const buffer = length > maxDataLength ? undefined : Buffer.allocUnsafe(Math.min(length, firstAllocation));
  return { header, length, buffer, filled: 0 };
}

function fillBody(body: Body, chunk: Buffer, offset: number): number {
  const count = Math.min(chunk.length - offset, body.length - body.filled);
  if (body.buffer !== undefined) {
    const wanted = body.filled + count;
    if (wanted > body.buffer.length) {
      const larger = Buffer.allocUnsafe(Math.min(body.length, Math.max(wanted, 2 * body.buffer.length)));
      body.buffer.copy(larger, 0, 0, body.filled);
      body.buffer = larger;
    }
    chunk.copy(body.buffer, body.filled, offset, offset + count);
  }
  body.filled += count;
  return count;
}
