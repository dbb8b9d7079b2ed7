import { createHash, randomFillSync } from "node:crypto";
import { closeSync, openSync, writeSync } from "node:fs";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

export const mebibyte = 1024 * 1024;

/** What came out of a stream. */
export interface Digest {
  readonly sha256: string;
  readonly sizeBytes: number;
}

/** Writes a file of random bytes, readable for everyone, and returns its digest. */
export function writeRandomFile(path: string, sizeBytes: number): Digest {
  const hash = createHash("sha256");
  const block = Buffer.alloc(mebibyte);
  const file = openSync(path, "w", 0o644);
  for (let left = sizeBytes; left > 0; left -= block.length) {
    const part = randomFillSync(block).subarray(0, Math.min(left, block.length));
    hash.update(part);
    writeSync(file, part);
  }
  closeSync(file);
  return { sha256: hash.digest("hex"), sizeBytes };
}

/** Reads a stream to its end. With `pauseMs` it rests that long after every MiB, as a slow reader does. */
export async function digest(stream: Readable, pauseMs = 0): Promise<Digest> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  let restsAt = mebibyte;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    hash.update(chunk);
    sizeBytes += chunk.length;
    if (pauseMs === 0 || sizeBytes < restsAt) continue;
    restsAt += mebibyte;
    await sleep(pauseMs);
  }
  return { sha256: hash.digest("hex"), sizeBytes };
}
