/**
 * AF_VSOCK through the kernel's vhost-vsock against the same through vhost-device-vsock, run in the lab by `node --test`: a guest
 * with nothing else in it. Figures only; that the bytes come is all that is asserted.
 */
import { once } from "node:events";
import type { Socket } from "node:net";
import { test } from "node:test";
import { loadConfig } from "../../../src/config/load.ts";
import { findFloorFiles, startRawVsock } from "../../bench/floor.ts";
import { buildPath } from "../../support/cli-build.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const mebibyte = 1024 ** 2;
const transferBytes = 16 * mebibyte;
const blockBytes = 64 * 1024;
const transfers = 5;
const roundTrips = 200;
const limitMs = 600_000;

for (const transport of ["vhost-vsock", "vhost-device-vsock"] as const) {
  void test(`throughput and round trip over ${transport}`, async () => {
    const out: number[] = [];
    const into: number[] = [];
    await withGuest(transport, transferBytes, async (socket) => {
      for (let count = 0; count <= transfers; count++) {
        const outMs = await timed(() => ask(socket, "s", transferBytes));
        const intoMs = await timed(() => send(socket));
        // The first warms up both ends.
        if (count === 0) continue;
        out.push(transferBytes / mebibyte / (outMs / 1000));
        into.push(transferBytes / mebibyte / (intoMs / 1000));
      }
    });
    const trips: number[] = [];
    await withGuest(transport, 1, async (socket) => {
      for (let count = 0; count < roundTrips; count++) trips.push(await timed(() => ask(socket, "s", 1)));
    });
    console.log(
      `figure: ${transport}: out ${median(out).toFixed(1)} MiB/s, in ${median(into).toFixed(1)} MiB/s, round trip ${median(trips).toFixed(2)} ms (medians of ${transfers} and ${roundTrips})`,
    );
  });
}

async function withGuest(
  vsock: "vhost-vsock" | "vhost-device-vsock",
  bytes: number,
  use: (socket: Socket) => Promise<void>,
): Promise<void> {
  await using dir = createTempDir();
  const overrides = [{ tag: "text", name: "this test", text: `accel = "kvm"\nvsock = "${vsock}"` }] as const;
  const config = loadConfig({ environment: {}, executableDirectory: buildPath("lib"), overrides });
  await using raw = await startRawVsock(
    { config, files: findFloorFiles(), dir },
    bytes,
    AbortSignal.timeout(limitMs),
  );
  await use(raw.socket);
}

/** Gives a command and takes as many bytes as it is answered with. */
async function ask(socket: Socket, command: string | Buffer, bytes: number): Promise<void> {
  socket.write(command);
  for (let left = bytes; left > 0; ) {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) await once(socket, "readable");
    else left -= chunk.length;
  }
}

async function send(socket: Socket): Promise<void> {
  const block = Buffer.alloc(blockBytes);
  socket.write("r");
  for (let left = transferBytes; left > blockBytes; left -= blockBytes) {
    if (!socket.write(block)) await once(socket, "drain");
  }
  // Its answer says that all has come.
  await ask(socket, block, 1);
}

async function timed(work: () => Promise<void>): Promise<number> {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
