import { once } from "node:events";
import type { Socket } from "node:net";
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";
import { openConnection } from "../../../src/agent-client/connection.ts";
import { encodeFrames, endFrame } from "../../../src/agent-client/frames.ts";
import { type FakeAgent, startFakeAgent } from "../../support/fake-agent.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const signal = new AbortController().signal;
const token = "00ff".repeat(8);

async function connectTo(onStream: (line: string) => string) {
  const dir = createTempDir();
  const agent = await startFakeAgent({ path: dir.join("vsock"), onStream });
  const opening = openConnection(
    { guest: { tag: "hybrid", path: dir.join("vsock") }, token, target: { tag: "port", port: 80 } },
    signal,
  );
  const dispose = async () => {
    await agent[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  };
  return { agent, opening, [Symbol.asyncDispose]: dispose };
}

const accept = (line: string) => (line.endsWith("tcp 80") ? "OK 7\n" : "OK\n");

/** The guest's ends of the two streams. */
function ends({ streams }: FakeAgent): { input: Socket; output: Socket } {
  const [input, output] = [streams.get("tcp 80"), streams.get("tcp-output 7")];
  if (input === undefined || output === undefined) throw new Error("The streams are not open");
  return { input, output };
}

test("a connection is a stream for each direction, the second named by the agent's number", async () => {
  await using peer = await connectTo(accept);
  const stream = await peer.opening;
  const { input, output } = ends(peer.agent);

  expect(peer.agent.streamLines).toEqual([`${token} tcp 80`, `${token} tcp-output 7`]);
  stream.end("question");
  expect((await once(input, "data"))[0]).toEqual(
    Buffer.concat([...encodeFrames(Buffer.from("question")), endFrame]),
  );
  expect(stream.writableFinished).toBe(false);
  input.end();
  await once(stream, "finish");
  output.write(Buffer.concat([...encodeFrames(Buffer.from("answer")), endFrame]));
  expect(await text(stream)).toBe("answer");
});

test.each([
  { name: "refuses", answer: () => "ERR connection refused\n", words: ": connection refused" },
  { name: "names no connection", answer: () => "OK\n", words: ": OK" },
  {
    name: "has no place for the output",
    answer: (line: string) => (line.endsWith("80") ? "OK 7\n" : "ERR no\n"),
    words: ": no",
  },
])("openConnection() is unavailable when the agent $name", async ({ answer, words }) => {
  await using peer = await connectTo(answer);

  await expect(peer.opening).rejects.toMatchObject({
    code: "unavailable",
    message: expect.stringContaining(`Cannot connect to port 80 of the guest${words}`) as string,
  });
});

test.each([
  {
    name: "a frame that is too large",
    say: ({ output }: ReturnType<typeof ends>) => output.write(Buffer.alloc(4, 0x7f)),
  },
  { name: "the output closing before its end", say: ({ output }: ReturnType<typeof ends>) => output.end() },
  { name: "the input closing before its end", say: ({ input }: ReturnType<typeof ends>) => input.end() },
])("$name breaks the stream and closes both connections", async ({ say }) => {
  await using peer = await connectTo(accept);
  const stream = await peer.opening;
  const both = ends(peer.agent);
  const closed = Promise.all([once(both.input, "close"), once(both.output, "close")]);
  const broken = once(stream.resume(), "error");
  say(both);
  both.input.resume();
  both.output.resume();

  expect((await broken)[0]).toHaveProperty("code");
  await closed;
});
