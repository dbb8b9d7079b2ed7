import { once } from "node:events";
import { connect } from "node:net";
import { ttrpc } from "../../../src/gen/ttrpc.js";
import { encodeFrame, type Frame, FrameDecoder } from "../../../src/ttrpc/frame.ts";
import { serviceName } from "./echo-server.ts";

/** A client that may send anything. */
export interface RawClient extends AsyncDisposable {
  send(bytes: Uint8Array): void;
  /** The next frame; undefined at the end of the connection. */
  receive(): Promise<Frame | undefined>;
  /** The status code of the next response (0: success), with its stream and message. */
  status(): Promise<{ streamId: number; code: number; message: string }>;
  end(): void;
  readonly closed: Promise<unknown>;
}

export async function connectRaw(path: string): Promise<RawClient> {
  const socket = connect(path);
  await once(socket, "connect");
  const decoder = new FrameDecoder();
  const frames: (Frame | undefined)[] = [];
  let wake = () => {};
  socket.on("data", (chunk: Buffer) => {
    frames.push(...decoder.push(chunk));
    wake();
  });
  socket.on("error", () => {});
  const closed = new Promise<void>((resolve) => {
    socket.once("close", () => {
      frames.push(undefined);
      wake();
      resolve();
    });
  });
  const receive = async () => {
    while (frames.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    return frames.shift();
  };
  return {
    send: (bytes) => void socket.write(bytes),
    receive,
    async status() {
      const frame = await receive();
      if (frame?.data === undefined) throw new Error("the connection has ended");
      const { status } = ttrpc.Response.decode(frame.data);
      return { streamId: frame.streamId, code: status?.code ?? 0, message: status?.message ?? "" };
    },
    end: () => void socket.end(),
    closed,
    [Symbol.asyncDispose]: async () => {
      socket.destroy();
      await closed;
    },
  };
}

/** A request frame of the echo service. */
export function requestFrame(
  streamId: number,
  fields: ttrpc.Request.$Properties = {},
  header: { type?: number; flags?: number } = {},
): Buffer {
  const data = ttrpc.Request.encode({ service: serviceName, method: "Echo", ...fields }).finish();
  return encodeFrame({ streamId, type: header.type ?? 1, flags: header.flags ?? 0 }, data);
}
