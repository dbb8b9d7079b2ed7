import { Writable } from "node:stream";

/** Keeps what is written up to a limit; the rest is dropped. */
export class BoundedOutput extends Writable {
  readonly #maxBytes: number;
  readonly #onFull: () => void;
  readonly #chunks: Buffer[] = [];
  #length = 0;

  /** @param onFull  told when there is more than `maxBytes`, once */
  constructor(maxBytes: number, onFull: () => void) {
    super({ decodeStrings: true });
    this.#maxBytes = maxBytes;
    this.#onFull = onFull;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    const kept = chunk.subarray(0, this.#maxBytes - this.#length);
    const wasFull = this.#length > this.#maxBytes;
    if (kept.length > 0 && !wasFull) this.#chunks.push(kept);
    this.#length += wasFull ? 0 : chunk.length;
    if (!wasFull && this.#length > this.#maxBytes) this.#onFull();
    done();
  }

  /** As UTF-8; a character that the limit has cut becomes U+FFFD. */
  get text(): string {
    return this.bytes.toString("utf8");
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}
