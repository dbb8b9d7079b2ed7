/**
 * The client's end of the network benchmark, run in the namespace of the peer: `node network-client.ts ADDRESS PORT ECHO_PORT
 * BYTES`. Prints what it has measured as JSON. At the other end: `init pipe` and `cat`.
 */
import { once } from "node:events";
import { createConnection, type Socket } from "node:net";

export interface NetworkSample {
  /** From the server to the client. */
  readonly outMibPerSecond: number;
  readonly inMibPerSecond: number;
  /** Median of the round trips of one byte. */
  readonly roundTripMs: number;
}

const mebibyte = 1024 * 1024;
const blockBytes = 256 * 1024;
const roundTrips = 200;

const [address = "", port = "", echoPort = "", size = ""] = process.argv.slice(2);
const bytes = Number(size);
const sample: NetworkSample = { ...(await measureRates()), roundTripMs: await measureRoundTrip() };
process.stdout.write(`${JSON.stringify(sample)}\n`);

async function open(toPort: string): Promise<Socket> {
  const socket = createConnection({ host: address, port: Number(toPort), noDelay: true });
  await once(socket, "connect");
  return socket;
}

async function measureRates() {
  const socket = await open(port);
  const outSeconds = await seconds(async () => {
    socket.write("s");
    for (let left = bytes; left > 0; ) left -= ((await once(socket, "data"))[0] as Buffer).length;
  });
  const inSeconds = await seconds(async () => {
    const answer = once(socket, "data");
    socket.write("r");
    const block = Buffer.alloc(blockBytes);
    for (let left = bytes; left > 0; left -= blockBytes) {
      if (!socket.write(block)) await once(socket, "drain");
    }
    await answer;
  });
  socket.end("q");
  await once(socket, "close");
  const rate = (time: number) => bytes / mebibyte / time;
  return { outMibPerSecond: rate(outSeconds), inMibPerSecond: rate(inSeconds) };
}

async function measureRoundTrip(): Promise<number> {
  const socket = await open(echoPort);
  const times: number[] = [];
  for (let count = 0; count < roundTrips; count++) {
    const answer = once(socket, "data");
    times.push(
      await seconds(async () => {
        socket.write("x");
        await answer;
      }),
    );
  }
  socket.end();
  await once(socket, "close");
  return 1000 * (times.toSorted((a, b) => a - b)[roundTrips / 2] ?? Number.NaN);
}

async function seconds(work: () => Promise<void>): Promise<number> {
  const begin = performance.now();
  await work();
  return (performance.now() - begin) / 1000;
}
