import Long from "long";
import { status } from "@grpc/grpc-js";
import { expect, test } from "vitest";
import { Agent } from "../../../src/agent-client/agent.ts";
import type { GuestExit } from "../../../src/agent-client/agent-types.ts";
import { RuntimeError } from "../../../src/base/errors.ts";
import { AgentFailure, type FakeAgentOptions, startFakeAgent } from "../../support/fake-agent.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const signal = new AbortController().signal;
const never = () => new Promise<never>(() => {});

/** A fake agent and the client that is connected to it. */
async function startPair(options: Omit<FakeAgentOptions, "path"> = {}, callTimeoutMs = 5_000) {
  const dir = createTempDir();
  const fake = await startFakeAgent({ path: dir.join("vsock"), ...options });
  const agent = new Agent({ tag: "hybrid", path: dir.join("vsock") }, callTimeoutMs);
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

const configuration = {
  sandboxId: "s1",
  randomSeed: Buffer.from("seed"),
  streamToken: Buffer.from("token"),
  hostname: "host",
  sysctls: { "net.ipv4.ip_forward": "1" },
  storages: [{ type: "virtiofs" as const, source: "caisson", target: "/run/caisson/shared", options: [] }],
  interfaces: [{ macAddress: "02:00:00:00:00:01", name: "eth0", mtu: 1500, addresses: ["10.0.0.2/24"] }],
  routes: [],
  neighbours: [],
};

test("configure() sends everything with the time of now, over one connection to port 1024", async () => {
  await using pair = await startPair({
    handlers: {
      Configure: () => ({
        agentVersion: "0.1.0",
        kernelRelease: "6.1.0",
        bootPhases: [{ name: "ready", atMicros: Long.fromNumber(1_500_000) }],
      }),
    },
  });
  const beforeMs = Date.now();

  const report = await pair.agent.configure(configuration, signal);
  await pair.agent.ping();

  expect(report).toEqual({
    agentVersion: "0.1.0",
    kernelRelease: "6.1.0",
    bootPhases: [{ name: "ready", atMicros: 1_500_000 }],
  });
  expect(pair.fake.dials).toEqual([1024]);
  const { request } = pair.fake.requests[0] ?? {};
  const clock = request?.["wallClockUnixNanos"] as Long;
  const clockMs = clock.div(1e6).toNumber();
  expect(clockMs).toBeGreaterThanOrEqual(beforeMs);
  expect(clockMs).toBeLessThanOrEqual(Date.now());
  expect(request).toMatchObject({ ...configuration, wallClockUnixNanos: expect.anything() });
});

test("configure() bounds and escapes what a hostile agent reports", async () => {
  const huge = "\u001b[2J".repeat(100_000);
  await using pair = await startPair({
    handlers: {
      Configure: () => ({
        agentVersion: huge,
        kernelRelease: huge,
        bootPhases: Array.from({ length: 10_000 }, () => ({
          name: huge.slice(0, 100),
          atMicros: Long.MAX_UNSIGNED_VALUE,
        })),
      }),
    },
  });

  const report = await pair.agent.configure(configuration);

  expect(report.agentVersion.length).toBeLessThan(500);
  expect(report.agentVersion).not.toContain("\u001b");
  expect(report.bootPhases.length).toBe(32);
  expect(report.bootPhases[0]?.name.length).toBeLessThan(500);
});

const failures = [
  { code: status.NOT_FOUND, want: "not_found" },
  { code: status.INVALID_ARGUMENT, want: "invalid_argument" },
  { code: status.ALREADY_EXISTS, want: "already_exists" },
  { code: status.FAILED_PRECONDITION, want: "failed_precondition" },
  { code: status.UNIMPLEMENTED, want: "unimplemented" },
  { code: status.RESOURCE_EXHAUSTED, want: "resource_exhausted" },
  { code: status.PERMISSION_DENIED, want: "permission_denied" },
  { code: status.DEADLINE_EXCEEDED, want: "deadline_exceeded" },
  { code: status.CANCELLED, want: "canceled" },
  { code: status.UNAVAILABLE, want: "unavailable" },
  { code: status.INTERNAL, want: "internal" },
  { code: status.UNKNOWN, want: "internal" },
  { code: status.DATA_LOSS, want: "internal" },
];

test.each(failures)(
  "a failure with status $code is $want, with the agent's words",
  async ({ code, want }) => {
    await using pair = await startPair({
      handlers: {
        StartProcess: () => Promise.reject(new AgentFailure(code, 'Cannot start "x": no such program')),
      },
    });

    await expect(pair.agent.startProcess({ containerId: "c1", execId: "" })).rejects.toMatchObject({
      code: want,
      message: expect.stringContaining('Cannot start "x": no such program'),
    });
  },
);

test("the words of a hostile agent are bounded and cannot pass for log lines of ours", async () => {
  const words = `\n{"level":50}\u001b[2J\u202e ${"x".repeat(6_000)}`;
  await using pair = await startPair({
    handlers: { Ping: () => Promise.reject(new AgentFailure(status.INTERNAL, words)) },
  });

  const error = (await pair.agent.ping().catch((reason: unknown) => reason)) as Error;

  expect(error.message).toMatch(String.raw`\n{"level":50}\u001b[2J\u202e`);
  for (const character of "\n\u001b\u202e") expect(error.message).not.toContain(character);
  expect(error.message.length).toBeLessThan(1_200);
});

test("a call that is not answered ends with deadline_exceeded, a late answer is nothing", async () => {
  const late = Promise.withResolvers<object>();
  await using pair = await startPair({ handlers: { CreateContainer: () => late.promise } }, 150);
  const request = {
    containerId: "c1",
    ociConfigJson: Buffer.from("{}"),
    stdio: { stdin: false, stdout: true, stderr: true, terminal: false, columns: 0, rows: 0 },
    noPivotRoot: false,
    storages: [],
    sharedNamespaces: [],
    disks: [],
    allDevices: false,
    volumes: [],
    notify: false,
    sysctls: {},
    descriptors: [],
    environment: [],
  };

  await expect(pair.agent.createContainer(request)).rejects.toMatchObject({
    code: "deadline_exceeded",
    message: expect.stringContaining("CreateContainer"),
  });
  late.resolve({});

  expect(await pair.agent.ping()).toBe(0);
});

test("a call ends with the reason of the caller's signal, and is not made when that has aborted", async () => {
  await using pair = await startPair({ handlers: { PowerOff: never } });
  const controller = new AbortController();
  const call = pair.agent.powerOff(controller.signal);
  await expect.poll(() => pair.fake.requests.length).toBe(1);

  controller.abort(new RuntimeError("canceled", "the caller left"));

  await expect(call).rejects.toThrow("the caller left");
  await expect(pair.agent.ping(controller.signal)).rejects.toThrow("the caller left");
  expect(pair.fake.requests.length).toBe(1);
});

test("the agent is never dialled a second time: after the loss every call is unavailable", async () => {
  await using pair = await startPair({ handlers: { SignalProcess: never } });
  await pair.agent.ping();
  const inFlight = pair.agent.signalProcess({ containerId: "c1", execId: "", signal: 9, all: true });
  await expect.poll(() => pair.fake.requests.length).toBe(2);

  pair.fake.drop();

  await expect(inFlight).rejects.toMatchObject({ code: "unavailable" });
  for (let attempt = 0; attempt < 3; attempt++) {
    await expect(pair.agent.ping()).rejects.toMatchObject({ code: "unavailable" });
  }
  expect(pair.fake.dials).toEqual([1024]);
});

test.each([
  { name: "refuses the port", onConnect: () => "ERR\n", code: "unavailable" },
  { name: "says nothing", onConnect: () => undefined, code: "deadline_exceeded" },
  {
    name: "does not speak HTTP/2",
    onConnect: () => "OK 1\nHTTP/1.1 400 Bad Request\r\n\r\n",
    code: undefined,
  },
])("a call fails when the backend $name", async ({ onConnect, code }) => {
  await using pair = await startPair({ onConnect }, 300);

  const error = (await pair.agent.ping().catch((reason: unknown) => reason)) as RuntimeError;

  expect(error).toBeInstanceOf(RuntimeError);
  if (code !== undefined) expect(error.code).toBe(code);
});

test("an answer beyond 4 MiB and one that is not protobuf are errors of their call only", async () => {
  await using pair = await startPair({
    handlers: {
      ListProcesses: () => ({ processes: [{ guestPid: 1, execId: "x".repeat(5 * 1024 * 1024) }] }),
      GetStats: () => Buffer.from([0xff, 0xff, 0xff]),
    },
  });

  await expect(pair.agent.listProcesses("c1")).rejects.toMatchObject({ code: "resource_exhausted" });
  await expect(pair.agent.getStats("c1")).rejects.toMatchObject({ code: "internal" });
  expect(await pair.agent.ping()).toBe(0);
});

const entries = Buffer.alloc(2_000_000, "0a00", "hex");

test.each([
  // Two bytes each on the wire, seventy in memory.
  { name: "a million empty processes", handlers: { ListProcesses: () => entries } },
  {
    name: "statistics with half a megabyte of names",
    handlers: {
      GetStats: () => ({
        memory: {
          stat: Object.fromEntries(Array.from({ length: 50_000 }, (_, index) => [`n${index}`, Long.ONE])),
        },
      }),
    },
  },
])("an answer of $name is refused before it is decoded", async ({ handlers }) => {
  await using pair = await startPair({ handlers });
  const call = "GetStats" in handlers ? pair.agent.getStats("c1") : pair.agent.listProcesses("c1");

  await expect(call).rejects.toMatchObject({
    code: "internal",
    message: expect.stringMatching(/Cannot accept the answer of/),
  });
  expect(await pair.agent.ping()).toBe(0);
});

test("an event of a hundred thousand fields ends the stream", async () => {
  await using pair = await startPair();
  const events = record();
  const ended = pair.agent.subscribe(events);

  await pair.fake.emit(Buffer.alloc(200_000, "0a00", "hex"));

  expect(await ended).toMatch(/more than 16 fields/);
  expect(events.exits).toEqual([]);
});

function record() {
  const exits: GuestExit[] = [];
  const oomKills: string[] = [];
  return {
    exits,
    oomKills,
    onExit: (exit: GuestExit) => void exits.push(exit),
    onOomKill: (containerId: string) => void oomKills.push(containerId),
    onNotification: () => {},
  };
}

test("subscribe() delivers exits and OOM kills in order, and says how the stream ended", async () => {
  await using pair = await startPair();
  const events = record();
  const ended = pair.agent.subscribe(events);

  await pair.fake.emit({ oomKill: { containerId: "c1" } });
  await pair.fake.emit({ exit: { containerId: "c1", execId: "e1", exitStatus: 137 } });
  await pair.fake.emit({ exit: { containerId: "c1", exitStatus: 0 } });
  await pair.fake.endEvents();

  expect(await ended).toBe("the agent ended the event stream");
  expect(events.oomKills).toEqual(["c1"]);
  expect(events.exits).toEqual([
    { containerId: "c1", execId: "e1", exitCode: 137 },
    { containerId: "c1", execId: "", exitCode: 0 },
  ]);
});

test("subscribe() resolves when the connection is lost", async () => {
  await using pair = await startPair();
  const ended = pair.agent.subscribe(record());
  await pair.agent.ping();

  pair.fake.drop();

  expect(await ended).toMatch(/UNAVAILABLE|CANCELLED|INTERNAL/);
});

test("events of a hostile agent: masked exit codes, no event at all, ids that are no ids", async () => {
  await using pair = await startPair();
  const events = record();
  const ended = pair.agent.subscribe(events);
  const hugeId = "../".repeat(100_000);

  for (const exitStatus of [256, 4_294_967_295, 1_000_000_000]) {
    await pair.fake.emit({ exit: { containerId: hugeId, execId: "__proto__", exitStatus } });
  }
  await pair.fake.emit({});
  await pair.fake.emit({ oomKill: {} });
  // A field that this version does not know.
  await pair.fake.emit(Buffer.from([0xf8, 0x07, 0x01]));
  await pair.fake.endEvents();
  await ended;

  expect(events.exits.map(({ exitCode }) => exitCode)).toEqual([0, 255, 0]);
  expect(events.oomKills).toEqual([""]);
});

test("an event that is not protobuf ends the stream", async () => {
  await using pair = await startPair();
  const events = record();
  const ended = pair.agent.subscribe(events);

  await pair.fake.emit(Buffer.from([0x0a, 0x7f]));

  expect(await ended).not.toBe("");
  expect(events.exits).toEqual([]);
});

test("listProcesses() and getStats() bound what they take over", async () => {
  await using pair = await startPair({
    handlers: {
      ListProcesses: () => ({
        processes: Array.from({ length: 70_000 }, (_, index) => ({
          guestPid: index,
          execId: index === 0 ? "\u001b" : "",
        })),
      }),
      GetStats: () => ({
        memory: {
          usageBytes: Long.MAX_UNSIGNED_VALUE,
          limitBytes: Long.MAX_UNSIGNED_VALUE,
          stat: Object.fromEntries(Array.from({ length: 5_000 }, (_, index) => [`f${index}`, Long.ONE])),
        },
        io: Array.from({ length: 5_000 }, () => ({ major: 4_294_967_295 })),
        network: [{ name: "e".repeat(10_000) }],
      }),
    },
  });

  const processes = await pair.agent.listProcesses("c1");
  const stats = await pair.agent.getStats("c1");

  expect(processes.length).toBe(65_536);
  expect(processes[0]).toEqual({ guestPid: 0, execId: String.raw`\u001b` });
  expect(stats.memory).toMatchObject({ usageBytes: Number.MAX_SAFE_INTEGER, limitBytes: undefined });
  expect([stats.memory.stat.size, stats.io.length, stats.network[0]?.name.length]).toEqual([128, 32, 16]);
});
