import Long from "long";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Agent } from "../../src/agent-client/agent.ts";
import type { GuestExit } from "../../src/agent-client/agent-types.ts";
import type { GuestStats } from "../../src/agent-client/stats.ts";
import { RuntimeError } from "../../src/base/errors.ts";
import { caisson } from "../../src/gen/agent.js";
import { AgentFailure, type FakeAgent, startFakeAgent } from "../support/fake-agent.ts";
import { createTempDir } from "../support/temp-dir.ts";
import { bytes, nearly } from "./bytes.ts";

const v1 = caisson.agent.v1;
const address = { containerId: "c1", execId: "" };
const stdio = { stdin: false, stdout: true, stderr: true, terminal: false, columns: 0, rows: 0 };

/** Every call of the host, by the name that its messages share. */
const calls: Record<string, (agent: Agent) => Promise<unknown>> = {
  Configure: (agent) =>
    agent.configure({
      sandboxId: "s1",
      randomSeed: Buffer.of(1),
      streamToken: Buffer.of(1),
      hostname: "h",
      sysctls: {},
      storages: [],
      interfaces: [],
      routes: [],
      neighbours: [],
    }),
  CreateContainer: (agent) =>
    agent.createContainer({
      containerId: "c1",
      ociConfigJson: Buffer.from("{}"),
      stdio,
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
    }),
  CreateExec: (agent) =>
    agent.createExec({ ...address, ociProcessJson: Buffer.from("{}"), stdio, descriptors: [] }),
  StartProcess: (agent) => agent.startProcess(address),
  SignalProcess: (agent) => agent.signalProcess({ ...address, signal: 9, all: true }),
  ResizeTerminal: (agent) => agent.resizeTerminal({ ...address, columns: 1, rows: 1 }),
  DeleteProcess: (agent) => agent.deleteProcess(address),
  ListProcesses: (agent) => agent.listProcesses("c1"),
  PauseContainer: (agent) => agent.pauseContainer("c1"),
  ResumeContainer: (agent) => agent.resumeContainer("c1"),
  UpdateContainer: (agent) => agent.updateContainer("c1", Buffer.from("{}")),
  GetStats: (agent) => agent.getStats("c1"),
  Ping: (agent) => agent.ping(),
};

const counter = fc
  .bigInt({ min: 0n, max: 2n ** 64n - 1n })
  .map((value) => Long.fromString(value.toString(), true));
const name = fc.oneof(
  fc.string(),
  fc.constantFrom("__proto__", "constructor", "\u001b[2J", "x".repeat(3_000)),
);
const statsReply = fc
  .record({
    cpu: fc.record({ usageUsec: counter, nrPeriods: counter }),
    memory: fc.record({ usageBytes: counter, limitBytes: counter, stat: fc.dictionary(name, counter) }),
    pids: fc.record({ current: counter, limit: counter }),
    io: fc.array(fc.record({ major: fc.nat(), readBytes: counter }), { maxLength: 40 }),
    network: fc.array(fc.record({ name, rxBytes: counter }), { maxLength: 40 }),
  })
  .map((fields) => v1.GetStatsResponse.encode(fields as never).finish());
const listReply = fc
  .array(fc.record({ guestPid: fc.nat(), execId: name }))
  .map((processes) => v1.ListProcessesResponse.encode({ processes }).finish());
const configureReply = fc
  .record({
    agentVersion: name,
    kernelRelease: name,
    bootPhases: fc.array(fc.record({ name, atMicros: counter })),
  })
  .map((fields) => v1.ConfigureResponse.encode(fields as never).finish());

const failure = fc.tuple(fc.nat({ max: 20 }), name).map(([code, words]) => new AgentFailure(code, words));
const reply = fc.oneof(bytes(100), nearly(fc.oneof(statsReply, listReply, configureReply)), failure);

/** Numbers that arithmetic can be done with, in all depths. */
function expectCounters(value: unknown): void {
  if (typeof value === "number") expect(Number.isSafeInteger(value) && value >= 0, String(value)).toBe(true);
  else if (value instanceof Map) for (const inner of value.values()) expectCounters(inner);
  else if (typeof value === "object" && value !== null) Object.values(value).forEach(expectCounters);
}

/** Node's HTTP/2 server, which the fake agent is, ends a connection of more than a thousand cancelled calls. */
const callsPerConnection = 500;

test("whatever the agent answers, a call ends with a value of its type or an error of ours", async () => {
  await using dir = createTempDir();
  let next: Uint8Array | AgentFailure = Buffer.of();
  const handler = () => (next instanceof AgentFailure ? Promise.reject(next) : next);
  const handlers = Object.fromEntries(Object.keys(calls).map((method) => [method, handler]));
  let count = 0;
  let made: { fake: FakeAgent; agent: Agent } | undefined;
  const renew = async () => {
    made?.agent[Symbol.dispose]();
    await made?.fake[Symbol.asyncDispose]();
    const path = dir.join(`vsock${count}`);
    made = {
      fake: await startFakeAgent({ path, handlers }),
      agent: new Agent({ tag: "hybrid", path }, 5_000),
    };
    return made;
  };

  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...Object.keys(calls)), reply, async (method, said) => {
      const { agent } = made === undefined || ++count % callsPerConnection === 0 ? await renew() : made;
      next = said;
      const result = await calls[method]?.(agent).catch((error: unknown) => error);

      if (result instanceof Error) {
        expect(result).toBeInstanceOf(RuntimeError);
        expect(result.message.length).toBeLessThan(8_000);
        // oxlint-disable-next-line no-control-regex -- they are what is looked for
        expect(result.message).not.toMatch(/[\0-\x1f\x7f]/);
      }
      if (method === "GetStats" && !(result instanceof Error)) {
        expectCounters(result as GuestStats);
        expect((result as GuestStats).io.length).toBeLessThanOrEqual(32);
      }
      next = v1.PingResponse.encode({}).finish();
      expect(await agent.ping()).toBe(0);
    }),
  );
  made?.agent[Symbol.dispose]();
  await made?.fake[Symbol.asyncDispose]();
});

test("whatever the agent sends as events, ids are texts and exit codes are bytes", async () => {
  const event = fc.oneof(
    bytes(30),
    nearly(
      fc
        .record({ containerId: name, execId: name, exitStatus: fc.nat({ max: 0xffff_ffff }) })
        .map((exit) => v1.Event.encode({ exit }).finish()),
    ),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(event, { maxLength: 10 }), async (events) => {
      await using dir = createTempDir();
      await using fake = await startFakeAgent({ path: dir.join("vsock") });
      using agent = new Agent({ tag: "hybrid", path: dir.join("vsock") }, 5_000);
      const exits: GuestExit[] = [];
      const ended = agent.subscribe({
        onExit: (exit) => exits.push(exit),
        onOomKill: (containerId) => expect(containerId).toBeTypeOf("string"),
        onNotification: () => {},
      });

      for (const data of events) await fake.emit(data);
      await fake.endEvents();

      expect(await ended).not.toBe("");
      for (const { containerId, execId, exitCode } of exits) {
        expect([typeof containerId, typeof execId]).toEqual(["string", "string"]);
        expect(Number.isInteger(exitCode) && exitCode >= 0 && exitCode <= 255).toBe(true);
      }
    }),
  );
});
