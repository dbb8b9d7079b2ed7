import { expect, test, vi } from "vitest";
import { Agent } from "../../../src/agent-client/agent.ts";
import type { NameQuery } from "../../../src/agent-client/name-queries.ts";
import { startFakeAgent } from "../../support/fake-agent.ts";
import { createTempDir } from "../../support/temp-dir.ts";

async function startPair() {
  const dir = createTempDir();
  const fake = await startFakeAgent({ path: dir.join("vsock") });
  const agent = new Agent({ tag: "hybrid", path: dir.join("vsock") }, 5_000);
  return {
    fake,
    agent,
    async [Symbol.asyncDispose]() {
      agent[Symbol.dispose]();
      await fake[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

const query = { address: "127.0.0.11", tcp: false, message: Buffer.from("who") };

test("a query is answered under its number, and one without an answer with nothing", async () => {
  await using pair = await startPair();
  const asked: NameQuery[] = [];
  void pair.agent.answerNameQueries(async (question) => {
    asked.push(question);
    return question.overTcp ? Buffer.from("me") : undefined;
  });
  const answers: [number, string][] = [];
  const names = await pair.fake.names;
  names.on("data", ({ number, message }) => answers.push([number, Buffer.from(message).toString()]));

  names.write({ ...query, number: 7, tcp: true });
  names.write({ ...query, number: 9 });

  await vi.waitFor(() => expect(answers).toHaveLength(2));
  expect(new Map(answers)).toEqual(
    new Map([
      [7, "me"],
      [9, ""],
    ]),
  );
  expect(asked).toContainEqual({ address: "127.0.0.11", overTcp: true, message: Buffer.from("who") });
});

test("of a guest that asks more than it may, 64 queries are open; a message that is too long ends it", async () => {
  await using pair = await startPair();
  let asked = 0;
  const ended = pair.agent.answerNameQueries(() => {
    asked += 1;
    return new Promise(() => {});
  });
  const names = await pair.fake.names;

  for (let number = 1; number <= 200; number++) names.write({ ...query, number });
  await vi.waitFor(() => expect(asked).toBe(64));
  await pair.agent.ping();
  expect(asked).toBe(64);

  names.write({ ...query, number: 1000, message: Buffer.alloc(70_000) });
  await expect(ended).resolves.toMatch(/name query|deserializ/i);
  await expect(pair.agent.ping()).resolves.toBe(0);
});
