import type { Duplex } from "node:stream";
import { RuntimeError } from "./errors.ts";
import { systemErrorCode } from "./files.ts";
import { loadNative } from "./native.ts";

/**
 * Writes `text` to a connected unix socket of Node's, and sends a duplicate of `fd` with it (SCM_RIGHTS, unix(7)), which
 * Node cannot. The caller keeps its descriptor.
 *
 * @throws unavailable  the socket is closed, or its peer does not read
 */
export function writeWithFd(socket: Duplex, text: string, fd: number): void {
  const refuse = (fact: string) =>
    new RuntimeError("unavailable", `Cannot send a descriptor over a socket: ${fact}`);
  const socketFd = descriptorOf(socket);
  if (socketFd === undefined) throw refuse("it is closed");
  // What Node still has to write comes before.
  if (socket.writableLength > 0) throw refuse("its peer does not read");
  try {
    const sent = loadNative().sendWithFd(socketFd, fd, text);
    const bytes = Buffer.from(text);
    if (sent < bytes.length) socket.write(bytes.subarray(sent));
  } catch (cause) {
    throw new RuntimeError(systemErrorCode(cause), "Cannot send a descriptor over a socket", { cause });
  }
}

/** Node's documentation says nothing of it; it is what `child_process` itself hands over to children. */
function descriptorOf(socket: Duplex): number | undefined {
  const { _handle: handle } = socket as { readonly _handle?: { readonly fd?: number } | null };
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined;
}
