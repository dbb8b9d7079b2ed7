/** Keeps the last `limitBytes` of what was pushed: a console or a child's stderr, however much is written. */
export class TextRing {
  readonly #limitBytes: number;
  #chunks: Buffer[] = [];
  #length = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    // Joining only when twice over keeps the cost per byte constant.
    if (this.#length > 2 * this.#limitBytes) {
      const tail = Buffer.from(Buffer.concat(this.#chunks).subarray(-this.#limitBytes));
      this.#chunks = [tail];
      this.#length = tail.length;
    }
  }

  /** The kept text; bytes that are not UTF-8 are replaced. */
  toString(): string {
    return Buffer.concat(this.#chunks).subarray(-this.#limitBytes).toString("utf8");
  }

  /** The last `count` lines that are not empty. */
  lastLines(count: number): string[] {
    return this.toString()
      .split(/\r?\n/)
      .map((line) => line.trim())
      .filter((line) => line !== "")
      .slice(-count);
  }
}
