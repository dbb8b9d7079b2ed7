import { codeOf, RuntimeError } from "../base/errors.ts";
import { within } from "../base/scope.ts";
import { TtrpcClient } from "../ttrpc/client.ts";
import type { StartCaller } from "./note.ts";
import { shimMethods, shimServiceName } from "./shim-api.ts";

const connectTimeoutMs = 1000;
const attachTimeoutMs = 5000;

/** A connection of `start` or `delete` to a running daemon. */
export interface ShimClient extends AsyncDisposable {
  /**
   * Announces a container and returns what `start` prints; undefined when the daemon is ending, once it is gone.
   *
   * @throws deadline_exceeded  it is ending for more than `endingTimeoutMs`
   */
  attach(caller: StartCaller, endingTimeoutMs: number): Promise<Uint8Array | undefined>;
  /** Has a container removed by force and returns how many are left; 0: the daemon is ending. */
  remove(containerId: string, timeoutMs: number): Promise<number>;
  /** Waits until the daemon has ended; false when it has not within `timeoutMs`. */
  waitForEnd(timeoutMs: number): Promise<boolean>;
}

/** @throws unavailable  nobody serves there */
export async function connectShim(path: string): Promise<ShimClient> {
  const client = await TtrpcClient.connect(path, { timeoutMs: connectTimeoutMs });
  const waitForEnd = (timeoutMs: number) =>
    within(
      client.closed.then(() => true),
      timeoutMs,
      false,
    );
  return {
    async attach(caller, endingTimeoutMs) {
      try {
        const options = { timeoutMs: attachTimeoutMs };
        return (await client.call(shimServiceName, shimMethods.attach, caller, options)).answer;
      } catch (error) {
        if (codeOf(error) !== "unavailable") throw error;
      }
      if (await waitForEnd(endingTimeoutMs)) return undefined;
      throw new RuntimeError(
        "deadline_exceeded",
        `Cannot start container "${caller.containerId}": its sandbox is ending for more than ${endingTimeoutMs} ms`,
      );
    },
    async remove(containerId, timeoutMs) {
      try {
        return (await client.call(shimServiceName, shimMethods.remove, { containerId }, { timeoutMs }))
          .remaining;
      } catch (error) {
        if (codeOf(error) === "unavailable") return 0;
        throw error;
      }
    },
    waitForEnd,
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}
