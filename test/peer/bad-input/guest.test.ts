// The hostile agent of the list of bad input, against the real model, by the numbers there. What the agent's client bounds by
// itself is in test/peer/agent-client; which other tests have the rest is in README.md.
import { existsSync, readFileSync } from "node:fs";
import Long from "long";
import { expect, test } from "vitest";
import { createModel, type Guest, goodSpec, type Model } from "./model.ts";

const never = () => new Promise<never>(() => {});
const unknownIds = ["", "c2", "../c1", "__proto__", "constructor", "x".repeat(100_000)];
const memoryMiB = () => process.memoryUsage.rss() / 1024 ** 2;

/** A container that runs, in a guest that lies. */
async function startModel(guest: Guest = {}): Promise<Model> {
  const model = createModel(guest);
  await model.create();
  await model.sandbox.container("c1").start("");
  return model;
}

test("104, 106 exits and OOM kills of what is not there are nothing", async () => {
  await using model = await startModel();

  for (const containerId of unknownIds) {
    await model.agent.emit({ oomKill: { containerId } });
    await model.agent.emit({ exit: { containerId, execId: "", exitStatus: 1 } });
    await model.agent.emit({ exit: { containerId: "c1", execId: containerId || "e1", exitStatus: 1 } });
  }
  await model.agent.emit({ oomKill: { containerId: "c1" } });
  await expect.poll(() => model.events).toEqual(["create c1", "start c1", "oom c1"]);

  expect(model.sandbox.container("c1").init.state.tag).toBe("running");
});

test("104, 105 an exit counts once, with a status of a byte and our time", async () => {
  await using model = await startModel();
  const begin = Date.now();

  for (const exitStatus of [0xffff_ffff, 0, 7]) {
    await model.agent.emit({ exit: { containerId: "c1", execId: "", exitStatus } });
  }
  const exit = await model.sandbox.container("c1").init.wait();
  await model.sandbox.container("c1").delete("");

  expect(exit.exitCode).toBe(255);
  expect(exit.exitedAt.getTime()).toBeGreaterThanOrEqual(begin);
  expect(exit.exitedAt.getTime()).toBeLessThanOrEqual(Date.now());
  expect(model.events).toEqual(["create c1", "start c1", "exit c1 - 255", "delete c1"]);
  expect(model.leftovers()).toEqual([]);
});

test("104 the exit of an exec that was never started is nothing", async () => {
  await using model = await startModel();
  const container = model.sandbox.container("c1");
  const processJson = Buffer.from('{"args":["true"],"cwd":"/"}');
  await container.exec({
    execId: "e1",
    stdio: { stdin: "", stdout: "", stderr: "", terminal: false },
    processJson,
  });

  await model.agent.emit({ exit: { containerId: "c1", execId: "e1", exitStatus: 1 } });
  await model.agent.emit({ oomKill: { containerId: "c1" } });
  await expect.poll(() => model.events.at(-1)).toBe("oom c1");

  expect(container.process("e1").state.tag).toBe("created");
  await container.delete("e1");
});

test("114 a flood of events costs no memory, and few OOM events of it go on", async () => {
  await using model = await startModel();
  const before = memoryMiB();

  for (let count = 0; count < 20_000; count++) {
    await model.agent.emit({ oomKill: { containerId: "c1" } });
    await model.agent.emit({ exit: { containerId: `c${count + 2}`, execId: "", exitStatus: 1 } });
  }
  await model.agent.emit({ exit: { containerId: "c1", execId: "", exitStatus: 3 } });

  expect(await model.sandbox.container("c1").init.wait()).toMatchObject({ exitCode: 3 });
  await expect.poll(() => model.events.at(-1)).toBe("exit c1 - 3");
  // One in a second.
  expect(model.events.filter((name) => name === "oom c1").length).toBeLessThan(60);
  expect(memoryMiB() - before).toBeLessThan(150);
});

interface Loss {
  readonly name: string;
  readonly lose: (model: Model) => unknown;
}

const garbage = Buffer.alloc(64 * 1024, "ffffffff00ff", "hex");

const losses: readonly Loss[] = [
  { name: "115 the end of the connection", lose: (model) => model.agent.drop() },
  { name: "115 the end of the events", lose: (model) => model.agent.endEvents() },
  { name: "102 garbage in the place of HTTP/2", lose: (model) => model.interject(garbage) },
  // Length, type (0: data), flags, stream.
  {
    name: "102 an answer on a stream that nobody opened",
    lose: (model) => model.interject(Buffer.from("00000400000000ffff61616161", "hex")),
  },
  {
    name: "101 a frame of 16 MiB",
    lose: (model) => model.interject(Buffer.from("ffffff000000000001", "hex")),
  },
  { name: "119 an event that is no message", lose: (model) => model.agent.emit(Buffer.from([0x0a, 0x7f])) },
  {
    name: "119 an event of a hundred thousand fields",
    lose: (model) => model.agent.emit(Buffer.alloc(200_000, "0a00", "hex")),
  },
];

test.each(losses)("$name ends the VM, once, with the exits of all that was in it", async ({ lose }) => {
  await using model = await startModel();
  const container = model.sandbox.container("c1");

  await lose(model);

  expect(await container.init.wait()).toMatchObject({ exitCode: 255 });
  await expect(
    container.exec({ execId: "e1", stdio: container.init.stdio, processJson: Buffer.from("{}") }),
  ).rejects.toMatchObject({
    code: "failed_precondition",
  });
  await container.delete("");
  expect(model.events).toEqual(["create c1", "start c1", "exit c1 - 255", "delete c1"]);
  expect(model.leftovers()).toEqual([]);
  // The same sandbox boots again.
  await (await model.create()).delete("");
});

interface Refusal {
  readonly name: string;
  readonly guest: Guest;
  readonly code: string;
  readonly message: RegExp;
}

const failures: readonly Refusal[] = [
  {
    name: "112 it is of another version",
    guest: { ready: "READY 2\n" },
    code: "unavailable",
    message: /"READY 2\\n", expected "READY 1\\n"/,
  },
  {
    name: "112 it says 1 MiB",
    guest: { ready: "x".repeat(1024 * 1024) },
    code: "unavailable",
    message: /^Cannot boot sandbox "s1": [^\n]{0,500}$/,
  },
  {
    name: "113 it never comes",
    guest: { ready: "" },
    code: "deadline_exceeded",
    message: /no result within 1000 ms/,
  },
  {
    name: "113 it never takes the configuration",
    guest: { handlers: { Configure: never } },
    code: "deadline_exceeded",
    message: /Configure|boot of sandbox/,
  },
  {
    name: "113 it never creates",
    guest: { handlers: { CreateContainer: never } },
    code: "deadline_exceeded",
    message: /CreateContainer/,
  },
  {
    name: "101 its answer is 5 MiB",
    guest: { handlers: { CreateContainer: () => Buffer.alloc(5 * 1024 * 1024) } },
    code: "resource_exhausted",
    message: /larger than max/,
  },
  {
    name: "119 its answer has a million fields",
    guest: { handlers: { CreateContainer: () => Buffer.alloc(2_000_000, "0a00", "hex") } },
    code: "internal",
    message: /more than 100000 fields/,
  },
  {
    name: "117 the backend does not answer in time",
    guest: { onConnect: () => undefined },
    code: "deadline_exceeded",
    message: /no result within/,
  },
  {
    name: "117 the backend speaks something else",
    guest: { onConnect: () => "220 ESMTP\n" },
    code: "unavailable",
    message: /./,
  },
  {
    name: "108 it refuses with a page of lies",
    guest: {
      handlers: {
        CreateContainer: () =>
          Promise.reject(new Error(`\n{"level":60}\u001b[2J\u202e%s${"x".repeat(6_000)}`)),
      },
    },
    code: "internal",
    message: /^\\n\{"level":60\}\\u001b\[2J\\u202e%sx{900,1020}…$/,
  },
];

test.each(failures)("a creation fails when $name; nothing is left", async ({ guest, code, message }) => {
  await using model = createModel(guest, { bootTimeoutMs: 1_000, agentCallTimeoutMs: 600 });

  await expect(model.create()).rejects.toMatchObject({ code, message: expect.stringMatching(message) });

  expect(model.events).toEqual([]);
  expect(model.leftovers()).toEqual([]);
});

test("104 an init that ends before its creation is over has its exit after it", async () => {
  await using model = createModel({
    handlers: {
      CreateContainer: async () => {
        await model.agent.emit({ exit: { containerId: "c1", execId: "", exitStatus: 9 } });
        return {};
      },
    },
  });

  const container = await model.create();

  expect(await container.init.wait()).toMatchObject({ exitCode: 9 });
  await container.delete("");
  expect(model.events).toEqual(["create c1", "exit c1 - 9", "delete c1"]);
});

test("112 phases of a boot that cannot have been do no harm to the timeline", async () => {
  const bootPhases = [
    { name: "ready\n\u001b", atMicros: Long.MAX_UNSIGNED_VALUE },
    { name: "", atMicros: Long.fromNumber(-1, true) },
    { name: "x".repeat(10_000), atMicros: Long.ZERO },
    { name: "ready", atMicros: Long.MAX_UNSIGNED_VALUE },
  ];
  await using model = await startModel({ handlers: { Configure: () => ({ bootPhases }) } });
  const path = model.readyPath.replace(/vm\/vsock_1026$/, "timeline.json");
  await expect.poll(() => existsSync(path)).toBe(true);

  const phases = JSON.parse(readFileSync(path, "utf8")) as {
    name: string;
    startMs: number;
    durationMs: number;
  }[];

  expect(phases.length).toBeLessThan(50);
  for (const { name, startMs, durationMs } of phases) {
    // oxlint-disable-next-line no-control-regex -- they are what is looked for
    expect(name).not.toMatch(/[\0-\x1f]/);
    expect(Number.isFinite(startMs) && Number.isFinite(durationMs) && durationMs >= 0).toBe(true);
  }
});

test("116 nobody listens for the guest any more once it is ready", async () => {
  await using model = await startModel();

  expect(existsSync(model.readyPath)).toBe(false);
  await expect(model.agent.sayReady()).rejects.toMatchObject({ code: "ENOENT" });
});

test("103 a stream that breaks its rules ends, and what came before it is kept", async () => {
  await using model = createModel();
  const stdout = `file://${model.dir.join("out")}`;
  const request = { stdio: { stdin: "", stdout, stderr: "", terminal: false } };
  const container = await model.create({ spec: goodSpec, request });
  await container.start("");

  // A frame of 2 bytes, then one of 2^31, which no agent sends.
  model.agent.streams.get("c1 - stdout")?.write(Buffer.from("000000026869800000006161", "hex"));
  await model.agent.emit({ exit: { containerId: "c1", execId: "", exitStatus: 0 } });
  await container.init.wait();
  await container.delete("");

  expect(readFileSync(model.dir.join("out"), "utf8")).toBe("hi");
  expect(model.leftovers()).toEqual([]);
});
