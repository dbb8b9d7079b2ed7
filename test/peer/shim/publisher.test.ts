import { Writable } from "node:stream";
import { expect, test } from "vitest";
import { createLog } from "../../../src/base/log.ts";
import { containerd } from "../../../src/gen/containerd.js";
import type { TaskEvent } from "../../../src/shim/events.ts";
import { Publisher } from "../../../src/shim/publisher.ts";
import { startFakeEventsSink } from "../../support/fake-events-sink.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const log = createLog("silent", new Writable());

function exitOf(id: string): TaskEvent {
  const value = containerd.events.TaskExit.encode({ containerId: "c1", id, exitStatus: 7 }).finish();
  return { topic: "/tasks/exit", typeUrl: "containerd.events.TaskExit", value };
}

async function setUp(backoffMs = 10) {
  const dir = createTempDir();
  const address = dir.join("c.ttrpc");
  const sink = await startFakeEventsSink(address);
  const publisher = new Publisher({ address, namespace: "ns", log, backoffMs });
  return {
    sink,
    publisher,
    ids: () => sink.events.map(({ message }) => message["id"]),
    async [Symbol.asyncDispose]() {
      await publisher.close(0);
      await sink[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

const numbers = (count: number) => Array.from({ length: count }, (_, index) => String(index));

test("publish() sends topic, namespace, time and message", async () => {
  await using peer = await setUp();
  const before = Date.now();

  peer.publisher.publish(exitOf("c1"));
  await peer.sink.received(1);

  expect(peer.sink.events[0]).toMatchObject({
    namespace: "ns",
    topic: "/tasks/exit",
    message: { containerId: "c1", id: "c1", exitStatus: 7 },
  });
  expect(peer.sink.events[0]?.sentAt.getTime()).toBeGreaterThanOrEqual(before);
});

test("publish() keeps the order through failures", async () => {
  await using peer = await setUp();
  peer.sink.answerNext("unavailable", "internal", "resource_exhausted");

  for (const id of numbers(100)) peer.publisher.publish(exitOf(id));
  await peer.sink.received(100);

  expect(peer.ids()).toEqual(numbers(100));
  expect(peer.sink.attempts).toBe(103);
});

test("publish() keeps events while containerd is away and sends each once when it is back", async () => {
  await using peer = await setUp();
  peer.publisher.publish(exitOf("first"));
  await expect.poll(() => peer.publisher.queued).toBe(0);

  await peer.sink.stop();
  for (const id of numbers(10)) peer.publisher.publish(exitOf(id));
  await peer.sink.restart();
  await peer.sink.received(11);

  expect(peer.ids()).toEqual(["first", ...numbers(10)]);
  expect(peer.publisher.dropped).toBe(0);
});

test("publish() drops what containerd refuses and goes on", async () => {
  await using peer = await setUp();
  peer.sink.answerNext("invalid_argument");

  peer.publisher.publish(exitOf("bad"));
  peer.publisher.publish(exitOf("good"));
  await peer.sink.received(1);

  expect(peer.ids()).toEqual(["good"]);
  expect(peer.publisher.dropped).toBe(1);
});

test("publish() keeps the 2048 latest events and counts the others", async () => {
  await using peer = await setUp();
  await peer.sink.stop();

  for (const id of numbers(2100)) peer.publisher.publish(exitOf(id));
  await peer.sink.restart();
  await peer.sink.received(2048);

  expect(peer.ids()).toEqual(numbers(2100).slice(-2048));
  expect(peer.publisher.dropped).toBe(52);
});

test("close() sends what is queued although a pause is on", async () => {
  await using peer = await setUp(60_000);
  peer.sink.answerNext("unavailable");
  for (const id of numbers(3)) peer.publisher.publish(exitOf(id));
  await expect.poll(() => peer.sink.attempts).toBe(1);

  await peer.publisher.close(5000);

  expect(peer.ids()).toEqual(numbers(3));
});

test("close() ends in time when containerd does not answer", async () => {
  await using peer = await setUp();
  peer.sink.answerNext("hang");
  peer.publisher.publish(exitOf("x"));
  await expect.poll(() => peer.sink.attempts).toBe(1);
  const start = performance.now();

  await peer.publisher.close(100);

  expect(performance.now() - start).toBeLessThan(1000);
  expect(peer.ids()).toEqual([]);
});

test("publish() without an address does nothing", async () => {
  const publisher = new Publisher({ address: "", namespace: "ns", log });

  publisher.publish(exitOf("x"));
  await publisher.close(0);

  expect(publisher.dropped).toBe(0);
});
