/** CIDs of guests, from the kernel's own vhost-vsock: run in the lab by `node --test`. */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { test } from "node:test";
import { openVhostVsock } from "../../../src/hypervisor/vhost-vsock.ts";

const lowestCid = 3;

void test("four daemons that want the same sixteen CIDs at the same time get four each, and nobody gets one twice", async () => {
  const daemons = Array.from({ length: 4 }, () => startHolder(16, 4));
  const answers = daemons.map(({ stdout }) => createInterface({ input: stdout })[Symbol.asyncIterator]());
  for (const answer of answers) assert.equal((await answer.next()).value, "ready");
  for (const { stdin } of daemons) stdin.write("go\n");
  const taken: number[] = [];
  for (const answer of answers)
    taken.push(
      ...String((await answer.next()).value)
        .split(" ")
        .map(Number),
    );

  assert.deepEqual(
    taken.toSorted((a, b) => a - b),
    Array.from({ length: 16 }, (_, index) => lowestCid + index),
  );
  let next = lowestCid;
  assert.throws(() => openVhostVsock(() => (next < lowestCid + 15 ? next++ : next)), {
    code: "resource_exhausted",
  });

  for (const daemon of daemons) await end(daemon);
  using device = openVhostVsock(() => lowestCid);
  assert.equal(device?.cid, lowestCid);
});

void test("the CIDs of a daemon that is killed are free again", async () => {
  const daemon = startHolder(1, 1);
  const answer = createInterface({ input: daemon.stdout })[Symbol.asyncIterator]();
  await answer.next();
  daemon.stdin.write("go\n");
  assert.equal((await answer.next()).value, String(lowestCid));
  daemon.kill("SIGKILL");
  await once(daemon, "exit");

  using device = openVhostVsock(() => lowestCid);
  assert.equal(device?.cid, lowestCid);
});

type Holder = ChildProcessByStdio<Writable, Readable, null>;

function startHolder(count: number, number: number): Holder {
  const script = join(import.meta.dirname, "cid-holder.ts");
  const argv = ["--no-warnings", script, String(count), String(number)];
  return spawn(process.execPath, argv, { stdio: ["pipe", "pipe", "inherit"] });
}

async function end(daemon: Holder): Promise<void> {
  daemon.stdin.end();
  const [exitCode] = await once(daemon, "exit");
  assert.equal(exitCode, 0);
}
