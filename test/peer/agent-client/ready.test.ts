import { once } from "node:events";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { listenForReady } from "../../../src/agent-client/ready.ts";
import { RuntimeError } from "../../../src/base/errors.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const signal = new AbortController().signal;

/** The guest dials the ready port and says `text`; the connection stays open. */
async function say(dir: TempDir, text: string) {
  const socket = connect(dir.join("vsock_1026"));
  socket.on("error", () => {});
  await once(socket, "connect");
  if (text !== "") socket.write(text);
  return socket;
}

test("ready() resolves with the agent's line, and nobody can dial the host any more", async () => {
  await using dir = createTempDir();
  await using listener = await listenForReady({ tag: "hybrid", path: dir.join("vsock") });
  const ready = listener.ready(signal);

  const socket = await say(dir, "REA");
  socket.write("DY 1\n");
  await ready;

  expect(existsSync(dir.join("vsock_1026"))).toBe(false);
  await expect(say(dir, "")).rejects.toMatchObject({ code: "ENOENT" });
});

test("ready() does not wait for connections that say nothing and stay", async () => {
  await using dir = createTempDir();
  await using listener = await listenForReady({ tag: "hybrid", path: dir.join("vsock") });
  const idle = [await say(dir, ""), await say(dir, "REA")];
  const ready = listener.ready(signal);

  await say(dir, "READY 1\n");
  await ready;

  await Promise.all(idle.map(async (socket) => socket.closed || (await once(socket.resume(), "close"))));
});

test("ready() ends with the signal's reason, whatever the guest holds open", async () => {
  await using dir = createTempDir();
  await using listener = await listenForReady({ tag: "hybrid", path: dir.join("vsock") });
  await say(dir, "");
  const controller = new AbortController();
  const ready = listener.ready(controller.signal);

  controller.abort(new RuntimeError("deadline_exceeded", "the boot takes too long"));

  await expect(ready).rejects.toThrow("the boot takes too long");
  expect(existsSync(dir.join("vsock_1026"))).toBe(false);
});

test.each([
  { name: "another version", text: "READY 2\n", said: String.raw`"READY 2\n"` },
  { name: "more than a line", text: "READY 1\nEXTRA", said: "EXTRA" },
  { name: "no line end within 64 bytes", text: "x".repeat(1024 * 1024), said: "xxx" },
  { name: "control characters", text: "\u001b[2J\n", said: String.raw`"\u001b[2J\n"` },
])("ready() is unavailable when the guest says $name", async ({ text, said }) => {
  await using dir = createTempDir();
  await using listener = await listenForReady({ tag: "hybrid", path: dir.join("vsock") });
  // Also when it is said before anyone waits.
  await say(dir, text);

  const error = await listener.ready(signal).catch((reason: unknown) => reason as Error);

  expect(error).toMatchObject({ code: "unavailable", message: expect.stringContaining(said) });
  expect((error as Error).message.length).toBeLessThan(400);
});

test("a connection that closes without a line is nothing; the next one counts", async () => {
  await using dir = createTempDir();
  await using listener = await listenForReady({ tag: "hybrid", path: dir.join("vsock") });
  const ready = listener.ready(signal);
  const first = await say(dir, "READY");
  first.destroy();

  await say(dir, "READY 1\n");

  await ready;
});

test("a listener that is disposed of unused is gone, twice too", async () => {
  await using dir = createTempDir();
  const listener = await listenForReady({ tag: "hybrid", path: dir.join("vsock") });
  await say(dir, "");

  await listener[Symbol.asyncDispose]();
  await listener[Symbol.asyncDispose]();

  expect(existsSync(dir.join("vsock_1026"))).toBe(false);
});
