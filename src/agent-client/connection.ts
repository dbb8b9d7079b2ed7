import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { asError, RuntimeError } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { endFrame, encodeFrames, FrameDecoder } from "./frames.ts";
import { dialGuest, type GuestAddress, readReplyLine, streamPort } from "./vsock.ts";

export interface ConnectionAddress {
  readonly guest: GuestAddress;
  /** Hex of the token that the agent was configured with. */
  readonly token: string;
  /** TCP port of the guest's loopback. */
  readonly port: number;
}

/**
 * Connects to a TCP port of the guest's loopback through the agent (see the head of agent.proto): a vsock stream for
 * each direction. Both have back-pressure and end on their own; `finish` says that the workload's socket has got
 * everything. The caller owns the result. One that breaks is destroyed with an error of the code `unavailable`;
 * destroying it resets the workload's side.
 *
 * @throws invalid_argument  not a port
 * @throws unavailable       nobody listens there, the workload does not accept, or the guest is gone
 */
export async function openConnection(address: ConnectionAddress, signal: AbortSignal): Promise<Duplex> {
  const { port, token } = address;
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new RuntimeError("invalid_argument", `Cannot connect to port ${port}: expected 1 to 65535`);
  const what = `port ${port} of the guest`;
  const open = async (words: string, answer: RegExp) => {
    const socket = await dialGuest(address.guest, streamPort, signal);
    try {
      socket.write(`${token} ${words}\n`);
      const reply = await readReplyLine(socket, signal, what);
      if (!answer.test(reply)) {
        const reason = foreignText(reply.replace(/^ERR /, ""));
        throw new RuntimeError("unavailable", `Cannot connect to ${what}: ${reason}`);
      }
      return { socket, number: reply.slice("OK ".length) };
    } catch (error) {
      socket.destroy();
      throw error;
    }
  };
  const input = await open(`tcp ${port}`, /^OK \d{1,10}$/);
  // What breaks while the other one is opened is noticed when it is written to.
  input.socket.on("error", () => {});
  try {
    const output = await open(`tcp-output ${input.number}`, /^OK$/);
    return join(input.socket, output.socket, what);
  } catch (error) {
    input.socket.destroy();
    throw error;
  }
}

function join(input: Socket, output: Socket, what: string): Duplex {
  let isDelivered = () => {};
  const send = (data: Buffer, done: (error?: Error | null) => void) => {
    const frames = encodeFrames(data);
    const last = frames.pop();
    for (const frame of frames) input.write(frame);
    if (last === undefined) done();
    else input.write(last, done);
  };
  const duplex = new Duplex({
    read: () => void output.resume(),
    write: (chunk: Buffer, _encoding, done) => send(chunk, done),
    writev: (parts: { chunk: Buffer }[], done) => send(Buffer.concat(parts.map(({ chunk }) => chunk)), done),
    // The guest closes when it has delivered everything.
    final: (done) => {
      isDelivered = done;
      input.write(endFrame, (error) => {
        if (error) done(error);
      });
    },
    destroy: (error, done) => {
      input.destroy();
      output.destroy();
      done(error);
    },
  });
  const fail = (cause?: Error) =>
    duplex.destroy(new RuntimeError("unavailable", `The connection to ${what} was reset`, { cause }));

  input.on("error", fail);
  // Nothing but a close is expected, and only a flowing socket notices it.
  input.resume();
  input.once("close", () => (duplex.writableEnded ? isDelivered() : fail()));

  let hasEnded = false;
  const decoder = new FrameDecoder({
    onData: (payload) => {
      if (!duplex.push(payload)) output.pause();
    },
    onExitMark: () => {},
    onEnd: () => {
      hasEnded = true;
      duplex.push(null);
      output.destroy();
    },
  });
  output.on("data", (chunk: Buffer) => {
    try {
      decoder.push(chunk);
    } catch (error) {
      duplex.destroy(asError(error));
    }
  });
  output.on("error", fail);
  output.once("close", () => {
    if (!hasEnded) fail();
  });
  return duplex;
}
