import type { Duplex } from "node:stream";
import {
  type ConnectionAddress,
  type ConnectionTarget,
  describeTarget,
  openConnection,
} from "../agent-client/connection.ts";
import { RuntimeError } from "../base/errors.ts";
import { scope } from "../base/scope.ts";

/** The connections to the guest's loopback and to descriptors of its containers. Disposing breaks those that are open. */
export interface GuestConnections extends Disposable {
  /** See `Sandbox.connect`. */
  connect(target: ConnectionTarget, signal: AbortSignal): Promise<Duplex>;
}

/** @param lost  resolves with a reason when the VM has ended, and every connection with it */
export function guestConnections(
  address: Omit<ConnectionAddress, "target">,
  { timeoutMs, lost }: { readonly timeoutMs: number; readonly lost: Promise<string> },
): GuestConnections {
  const open = new Set<Duplex>();
  const breakAll = (reason: string) => {
    // A stream whose reader has stopped does not notice the end of its socket by itself.
    for (const stream of open) stream.destroy(new RuntimeError("unavailable", reason));
  };
  void lost.then((reason) => breakAll(`The VM has ended: ${reason}`));
  return {
    connect: async (target, signal) => {
      using limit = scope(signal, timeoutMs, `the connection to ${describeTarget(target)}`);
      const stream = await openConnection({ ...address, target }, limit.signal);
      open.add(stream);
      stream.once("close", () => open.delete(stream));
      return stream;
    },
    [Symbol.dispose]: () => breakAll("The sandbox was closed"),
  };
}
