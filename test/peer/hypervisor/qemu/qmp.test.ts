import { expect, test } from "vitest";
import { RuntimeError } from "../../../../src/base/errors.ts";
import { Qmp, type QmpEvent } from "../../../../src/hypervisor/qemu/qmp.ts";
import { startFakeQmp } from "../../../support/fake-qmp.ts";

const never = new AbortController().signal;

test("connect() negotiates and execute() returns what QEMU returns, whatever the order of the answers", async () => {
  const held: (() => void)[] = [];
  await using peer = await startFakeQmp({
    "query-status": { return: { status: "running" } },
    slow: (request, fake) => {
      held.push(() => fake.send(`${JSON.stringify({ return: "slow one", id: request.id })}\n`));
      return undefined;
    },
  });
  using qmp = await Qmp.connect(peer.stream, { signal: never });

  const slow = qmp.execute("slow", { path: "/a" });
  const status = await qmp.execute("query-status");
  for (const release of held) release();

  expect(status).toEqual({ status: "running" });
  expect(await slow).toBe("slow one");
  expect(peer.requests).toEqual([
    { execute: "qmp_capabilities", id: 1 },
    { execute: "slow", arguments: { path: "/a" }, id: 2 },
    { execute: "query-status", id: 3 },
  ]);
});

test.each([
  { class: "DeviceNotFound", code: "not_found" },
  { class: "CommandNotFound", code: "unimplemented" },
  { class: "DeviceNotActive", code: "failed_precondition" },
  { class: "GenericError", code: "internal" },
  { class: "SomethingNew", code: "internal" },
])(
  "execute() turns $class into $code and keeps QEMU's words, escaped",
  async ({ class: errorClass, code }) => {
    await using peer = await startFakeQmp({
      device_del: { error: { class: errorClass, desc: "Device 'net9'\n\u001b[2J" } },
    });
    using qmp = await Qmp.connect(peer.stream, { signal: never });

    await expect(qmp.execute("device_del", { id: "net9" })).rejects.toMatchObject({
      code,
      message: `Cannot run QMP command "device_del": Device 'net9'\\n\\u001b[2J`,
    });
  },
);

test("events reach the callback, also when they come in pieces and before an answer", async () => {
  const events: QmpEvent[] = [];
  await using peer = await startFakeQmp({
    stop: (_, fake) => {
      fake.sendEvent("STOP");
      return { return: {} };
    },
  });
  using qmp = await Qmp.connect(peer.stream, { signal: never, onEvent: (event) => events.push(event) });

  for (const byte of '{"event": "SHUTDOWN", "data": {"reason": "Überlauf"}}\n') peer.send(byte);
  await qmp.execute("stop");

  expect(events).toEqual([
    { name: "SHUTDOWN", data: { reason: "Überlauf" } },
    { name: "STOP", data: {} },
  ]);
});

test("execute() ends at its time limit, and the late answer disturbs nobody", async () => {
  const ids: number[] = [];
  await using peer = await startFakeQmp({
    slow: (request) => {
      ids.push(request.id);
      return undefined;
    },
  });
  using qmp = await Qmp.connect(peer.stream, { signal: never });

  await expect(qmp.execute("slow", undefined, { timeoutMs: 20 })).rejects.toMatchObject({
    code: "deadline_exceeded",
  });
  peer.send(`${JSON.stringify({ return: "late", id: ids[0] })}\n`);

  expect(await qmp.execute("next")).toEqual({});
});

test("execute() ends with the reason of its signal", async () => {
  await using peer = await startFakeQmp({ slow: () => undefined });
  using qmp = await Qmp.connect(peer.stream, { signal: never });
  const controller = new AbortController();

  const call = qmp.execute("slow", undefined, { signal: controller.signal });
  controller.abort(new RuntimeError("canceled", "Cannot go on: the user left"));

  await expect(call).rejects.toMatchObject({ code: "canceled" });
});

test("the end of the connection fails every pending and later command with unavailable", async () => {
  await using peer = await startFakeQmp({ first: () => undefined, second: (_, fake) => fake.hangUp() });
  using qmp = await Qmp.connect(peer.stream, { signal: never });

  const results = await Promise.allSettled([qmp.execute("first"), qmp.execute("second")]);

  const unavailable = { status: "rejected", reason: expect.objectContaining({ code: "unavailable" }) };
  expect(results).toEqual([unavailable, unavailable]);
  await expect(qmp.execute("third")).rejects.toMatchObject({ code: "unavailable" });
});

test.each([
  {
    name: "a line without end",
    text: "x".repeat(1024 * 1024 + 1),
    fact: "a line of more than 1048576 bytes",
  },
  { name: "a line that is not JSON", text: "hello\n", fact: "a line that is not JSON: hello" },
  { name: "a line that is no object", text: "[1]\n", fact: "a line that is no object: [1]" },
  {
    name: "an error that belongs to no command",
    text: '{"error": {"class": "GenericError"}}\n',
    fact: "to no command",
  },
])("$name ends the connection", async ({ text, fact }) => {
  await using peer = await startFakeQmp({ ask: (_, fake) => fake.send(text) });
  using qmp = await Qmp.connect(peer.stream, { signal: never });

  await expect(qmp.execute("ask")).rejects.toMatchObject({
    code: "unavailable",
    message: expect.stringContaining(fact),
  });
  expect(peer.stream.destroyed).toBe(true);
});

test("connect() to a peer that never greets ends with its signal and destroys the stream", async () => {
  await using peer = await startFakeQmp({}, { greets: false });
  const controller = new AbortController();

  const connecting = Qmp.connect(peer.stream, { signal: controller.signal });
  controller.abort(new RuntimeError("canceled", "Cannot go on"));

  await expect(connecting).rejects.toMatchObject({ code: "canceled" });
  expect(peer.stream.destroyed).toBe(true);
});

test("connect() to a peer that hangs up before it greets is unavailable", async () => {
  await using peer = await startFakeQmp({}, { greets: false });

  const connecting = Qmp.connect(peer.stream, { signal: never });
  peer.hangUp();

  await expect(connecting).rejects.toMatchObject({ code: "unavailable" });
});

test("connect() with an aborted signal throws its reason, and the end of the connection is nobody's problem", async () => {
  await using peer = await startFakeQmp({}, { greets: false });
  const reason = new RuntimeError("canceled", "Cannot go on");

  await expect(Qmp.connect(peer.stream, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
});
