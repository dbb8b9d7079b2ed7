import { once } from "node:events";
import { expect, test } from "vitest";
import { openStream } from "../../../src/agent-client/streams.ts";
import { startFakeAgent } from "../../support/fake-agent.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const signal = new AbortController().signal;
const token = "00ff".repeat(8);

test("openStream() names the stream on one line and returns the socket, nothing read from it", async () => {
  await using dir = createTempDir();
  await using agent = await startFakeAgent({ path: dir.join("vsock"), onStream: () => "OK\nfirst bytes" });
  const address = { guest: { tag: "hybrid" as const, path: dir.join("vsock") }, token, containerId: "c1" };

  const init = await openStream({ ...address, execId: "", name: "stdout" }, signal);
  const exec = await openStream({ ...address, execId: "e1", name: "stdin" }, signal);

  expect(agent.dials).toEqual([1025, 1025]);
  expect(agent.streamLines).toEqual([`${token} c1 - stdout`, `${token} c1 e1 stdin`]);
  expect((await once(init.resume(), "data")).toString()).toBe("first bytes");
  init.destroy();
  exec.destroy();
});

test.each([
  { name: "refuses it", reply: "ERR no such stream\n", words: 'the agent said "ERR no such stream"' },
  { name: "says more than OK", reply: "OK 1\n", words: 'the agent said "OK 1"' },
  {
    name: "lies to the terminal",
    reply: "ERR \u001b[2J\n",
    words: String.raw`the agent said "ERR \u001b[2J"`,
  },
  { name: "goes on without a line end", reply: `ERR ${"x".repeat(100_000)}`, words: "no line end within" },
])("openStream() is unavailable when the agent $name", async ({ reply, words }) => {
  await using dir = createTempDir();
  await using _agent = await startFakeAgent({ path: dir.join("vsock"), onStream: () => reply });

  const opening = openStream(
    {
      guest: { tag: "hybrid" as const, path: dir.join("vsock") },
      token,
      containerId: "c1",
      execId: "",
      name: "stdout",
    },
    signal,
  );

  await expect(opening).rejects.toMatchObject({
    code: "unavailable",
    message: expect.stringContaining(words),
  });
});
