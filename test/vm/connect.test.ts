import { randomBytes } from "node:crypto";
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { buffer, text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { type ModelContainer, startModelContainer } from "../support/model-container.ts";
import { patient } from "../support/patience.ts";

const echoPort = 8080;
const httpPort = 8081;
const signal = AbortSignal.timeout(patient(240_000));
const manyConnections = 60;

let server: ModelContainer;
beforeAll(async () => {
  // As many connections may wait to be accepted as there are l's.
  const echo = `nc -${"l".repeat(manyConnections)} -p ${echoPort} -e cat`;
  server = await startModelContainer({
    command: ["sh", "-c", `echo hello >/tmp/index.html; httpd -p [::1]:${httpPort} -h /tmp; exec ${echo}`],
  });
  (await connectEarly(server)).destroy();
});
afterAll(() => server[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => ({ marks: [server.dir.token] }));

const connect = (port: number): Promise<Duplex> => server.sandbox.connect(port, { signal });

/** Connects to a server that was started, but need not listen yet. */
async function connectEarly({ sandbox, container, output }: ModelContainer): Promise<Duplex> {
  for (;;) {
    try {
      return await sandbox.connect(echoPort, { signal });
    } catch (error) {
      if (!String(error).includes("connection refused")) throw error;
      expect(container.init.state.tag, output()).toBe("running");
      await sleep(100, undefined, { signal });
    }
  }
}

test("what is written comes back, and after a half-close the other direction goes on to its own end", async () => {
  const stream = await connect(echoPort);
  stream.write("first ");
  expect(String(await once(stream, "data").then(([chunk]) => chunk as Buffer))).toBe("first ");
  stream.end("last");
  const [rest] = await Promise.all([text(stream), once(stream, "finish")]);

  expect(rest).toBe("last");
});

test("64 MiB go there and back at the same time and arrive exactly", async () => {
  const stream = await connect(echoPort);
  const block = randomBytes(1024 * 1024 + 7);
  const count = 64;
  const sent = (async () => {
    for (let index = 0; index < count; index++) {
      if (!stream.write(block)) await once(stream, "drain");
    }
    stream.end();
  })();
  let offset = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    for (let done = 0; done < chunk.length; ) {
      const place = offset % block.length;
      const piece = chunk.subarray(done, done + block.length - place);
      if (piece.compare(block, place, place + piece.length) !== 0)
        throw new Error(`Other bytes at ${offset}`);
      done += piece.length;
      offset += piece.length;
    }
  }
  await sent;

  expect(offset).toBe(count * block.length);
});

test("connections that are given up at any moment take none of the others with them", async () => {
  const kept = await connect(echoPort);
  for (let index = 0; index < 200; index++) {
    const giveUp = new AbortController();
    const given = server.sandbox
      .connect(httpPort, { signal: giveUp.signal })
      .then((stream) => stream.destroy())
      .catch(() => {});
    await sleep((index % 20) / 10);
    giveUp.abort(new Error("nobody needs it"));
    await given;
  }

  kept.end("still there");
  expect(await text(kept)).toBe("still there");
});

test("calls that were given up while the guest stood still cost nobody anything", async () => {
  const { sandbox, container } = server;
  const kept = await connect(echoPort);
  const seen = await container.stats();

  process.kill(sandbox.pid, "SIGSTOP");
  const calls = Promise.all(Array.from({ length: 100 }, () => container.stats()));
  const answers = await calls.finally(() => process.kill(sandbox.pid, "SIGCONT"));

  expect(answers.every((answer) => answer === seen)).toBe(true);
  kept.end("still there");
  expect(await text(kept)).toBe("still there");
  expect(await container.stats()).not.toBe(seen);
});

test("a port that only ::1 listens on is found", async () => {
  const stream = await connect(httpPort);
  stream.write("GET / HTTP/1.0\r\n\r\n");

  expect(await text(stream)).toContain("hello");
  stream.end();
});

test("a port that nobody listens on is refused, and so is what is no port", async () => {
  await expect(connect(9)).rejects.toMatchObject({
    code: "unavailable",
    message: expect.stringContaining("connection refused") as string,
  });
  for (const port of [0, -1, 65_536, 1.5, Number.NaN]) {
    await expect(connect(port)).rejects.toMatchObject({ code: "invalid_argument" });
  }
});

test(`${manyConnections} connections at once do not disturb each other, one that does not read included`, async () => {
  const stuck = await connect(echoPort);
  stuck.on("error", () => {});
  stuck.write(Buffer.alloc(8 * 1024 * 1024));
  const streams = await Promise.all(Array.from({ length: manyConnections }, () => connect(echoPort)));
  const answers = await Promise.all(
    streams.map(async (stream, index) => {
      stream.end(Buffer.alloc(64 * 1024, index));
      return await buffer(stream);
    }),
  );

  expect(answers.every((answer, index) => answer.equals(Buffer.alloc(64 * 1024, index)))).toBe(true);
  stuck.destroy();
});

test("a destroyed stream ends the workload's side, one that it has filled up included", async () => {
  const processes = async () => (await server.container.guestPids()).length;
  // nc and httpd: what served earlier connections ends by itself.
  const before = 2;
  await expect.poll(processes, { timeout: patient(60_000) }).toBe(before);
  for (const isFull of [false, true]) {
    const stream = await connect(echoPort);
    stream.on("error", () => {});
    stream.write(isFull ? Buffer.alloc(8 * 1024 * 1024) : "x");
    await once(stream, "readable");
    expect(await processes()).toBe(before + 1);
    stream.destroy();
    await expect.poll(processes, { timeout: patient(60_000) }).toBe(before);
  }
});

test("the end of the VM breaks a connection, also for one that does not read, and there are no more", async () => {
  await using other = await startModelContainer({
    command: ["nc", "-ll", "-p", String(echoPort), "-e", "cat"],
  });
  const stream = await connectEarly(other);
  const broken = once(stream, "error");
  await other.sandbox.close();

  expect((await broken)[0]).toMatchObject({ code: "unavailable" });
  await expect(other.sandbox.connect(echoPort, { signal })).rejects.toMatchObject({
    code: "failed_precondition",
  });
});
