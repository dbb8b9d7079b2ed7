import protobuf from "protobufjs/minimal.js";
import { RuntimeError } from "../base/errors.ts";

/**
 * Refuses a message with very many fields before it is decoded: an empty element of a repeated message field is two
 * bytes on the wire and more than a hundred in memory, so 4 MiB could become hundreds.
 *
 * @throws resource_exhausted  more than `maxFields`
 * @throws Error               it is not a message
 */
export function checkFieldCount(bytes: Uint8Array, maxFields: number, what: string): void {
  const reader = protobuf.Reader.create(bytes);
  for (let count = 0; reader.pos < reader.len; count++) {
    if (count >= maxFields) {
      throw new RuntimeError(
        "resource_exhausted",
        `Cannot accept ${what}: it has more than ${maxFields} fields`,
      );
    }
    const tag = reader.uint32();
    reader.skipType(tag & 7, 0, tag >>> 3);
  }
}
