import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { asError, RuntimeError } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { endFrame, encodeFrames, FrameDecoder } from "./frames.ts";
import { dialGuest, type GuestAddress, readReplyLine, streamPort } from "./vsock.ts";

/** What there is to connect to in a guest. */
export type ConnectionTarget =
  /** A TCP port of its loopback. */
  | { readonly tag: "port"; readonly port: number }
  /** A descriptor that a process was given; an empty exec id: the container's first one. */
  | {
      readonly tag: "descriptor";
      readonly containerId: string;
      readonly execId: string;
      readonly fd: number;
    };

export interface ConnectionAddress {
  readonly guest: GuestAddress;
  /** Hex of the token that the agent was configured with. */
  readonly token: string;
  readonly target: ConnectionTarget;
}

/** For errors. */
export function describeTarget(target: ConnectionTarget): string {
  return target.tag === "port"
    ? `port ${target.port} of the guest`
    : `descriptor ${target.fd} of container "${target.containerId}"`;
}

/**
 * Connects to a TCP port of the guest's loopback or to a descriptor through the agent (see the head of agent.proto): a vsock stream for
 * each direction. Both have back-pressure and end on their own; `finish` says that the workload's socket has got
 * everything. The caller owns the result. One that breaks is destroyed with an error of the code `unavailable`;
 * destroying it resets the workload's side.
 *
 * @throws invalid_argument  not a port
 * @throws unavailable       nobody listens there, the workload does not accept, or the guest is gone
 */
export async function openConnection(address: ConnectionAddress, signal: AbortSignal): Promise<Duplex> {
  const { target, token } = address;
  const what = describeTarget(target);
  const open = async (line: string, answer: RegExp) => {
    const socket = await dialGuest(address.guest, streamPort, signal);
    try {
      socket.write(`${token} ${line}\n`);
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
  const input = await open(words(target), /^OK \d{1,10}$/);
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

/** Behind the token in the line that opens the stream to it. @throws invalid_argument */
function words(target: ConnectionTarget): string {
  if (target.tag === "descriptor") return `${target.containerId} ${target.execId || "-"} ${target.fd}`;
  const { port } = target;
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return `tcp ${port}`;
  throw new RuntimeError("invalid_argument", `Cannot connect to port ${port}: expected 1 to 65535`);
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
