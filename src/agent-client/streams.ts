import type { Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { dialGuestDirectly, type GuestAddress, readReplyLine, streamPort } from "./vsock.ts";

export type StreamName = "stdin" | "stdout" | "stderr";

export interface StreamAddress {
  readonly guest: GuestAddress;
  /** Hex of the token that the agent was configured with. */
  readonly token: string;
  readonly containerId: string;
  /** Empty for init. */
  readonly execId: string;
  readonly name: StreamName;
}

/**
 * Opens one stdio stream of a process: a vsock connection of its own, so that its back-pressure is its own. The
 * caller owns the socket, which is paused and a direct one (`base/direct-reads.ts`); frames (`frames.ts`) follow in one direction.
 *
 * @throws unavailable  the guest refused it or is gone
 */
export async function openStream(address: StreamAddress, signal: AbortSignal): Promise<Socket> {
  const socket = await dialGuestDirectly(address.guest, streamPort, signal);
  const what = `${address.name} of "${address.containerId}${address.execId && `/${address.execId}`}"`;
  try {
    socket.write(`${address.token} ${address.containerId} ${address.execId || "-"} ${address.name}\n`);
    const reply = await readReplyLine(socket, signal, what);
    if (reply !== "OK") {
      throw new RuntimeError("unavailable", `Cannot open ${what}: the agent said "${foreignText(reply)}"`);
    }
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}
