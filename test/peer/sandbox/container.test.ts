import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { pino } from "pino";
import { expect, test } from "vitest";
import { Agent } from "../../../src/agent-client/agent.ts";
import { encodeFrames, endFrame } from "../../../src/agent-client/frames.ts";
import { openStream } from "../../../src/agent-client/streams.ts";
import { codeOf, RuntimeError } from "../../../src/base/errors.ts";
import { within } from "../../../src/base/scope.ts";
import type { Spec } from "../../../src/oci/spec.ts";
import { GuestContainer } from "../../../src/sandbox/container.ts";
import { ContainerHooks } from "../../../src/sandbox/hooks.ts";
import type { SandboxEvent, Stdio } from "../../../src/sandbox/model.ts";
import { GuestProcess } from "../../../src/sandbox/process.ts";
import { AgentFailure, type FakeAgentOptions, notFound, startFakeAgent } from "../../support/fake-agent.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const log = pino({ level: "silent" });
const silent: Stdio = { stdin: "", stdout: "", stderr: "", terminal: false };
const processJson = Buffer.from('{"args":["true"],"cwd":"/"}');
const never = () => new Promise<never>(() => {});

/** A container `c1` in a guest that the test plays. */
async function startContainer(handlers: FakeAgentOptions["handlers"] = {}, drainTimeoutMs = 2_000) {
  const dir = createTempDir();
  const fake = await startFakeAgent({ path: dir.join("vsock"), handlers });
  const agent = new Agent({ tag: "hybrid", path: dir.join("vsock") }, 5_000);
  const events: string[] = [];
  const vm = { kills: 0, releases: 0 };
  const vmSize = { vcpus: 1, memoryMiB: 256 };
  const common = { agent, hostPid: 4_242, drainTimeoutMs, killVm: () => void (vm.kills += 1) };
  const joinLateNetwork = async () => {};
  const init = new GuestProcess({ ...common, containerId: "c1", execId: "", stdio: silent });
  const spec: Spec = { ociVersion: "1.0.2", root: { path: "rootfs" }, process: { cwd: "/" } };
  const container = new GuestContainer({
    joinLateNetwork,
    ...common,
    id: "c1",
    bundle: dir.path,
    rootfs: [],
    init,
    hooks: new ContainerHooks({ containerId: "c1", bundle: dir.path }, spec, { pid: 4_242, netnsPath: "" }),
    log,
    observer: undefined,
    growth: { size: vmSize, most: vmSize, change: async () => {} },
    openStream: (execId) => (name, signal) =>
      openStream(
        { guest: { tag: "hybrid", path: dir.join("vsock") }, token: "00", containerId: "c1", execId, name },
        signal,
      ),
    descriptors: undefined,
    connectDescriptor: () => never,
    emit: (event) => events.push(nameOf(event)),
    release: () => {
      vm.releases += 1;
      return Promise.resolve();
    },
  });
  return {
    dir,
    fake,
    container,
    events,
    vm,
    calls: (method: string) => fake.requests.filter((call) => call.method === method).length,
    async [Symbol.asyncDispose]() {
      agent[Symbol.dispose]();
      await fake[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

function nameOf(event: SandboxEvent): string {
  if (event.type === "exit") return `exit ${event.process.execId || "init"} ${event.exit.exitCode}`;
  return event.type;
}

function makeFifo(dir: TempDir, name: string): string {
  execFileSync("mkfifo", [dir.join(name)]);
  return dir.join(name);
}

test("the second start of a running exec is failed_precondition and leaves its streams alone", async () => {
  await using guest = await startContainer();
  await guest.container.start("");
  const stdout = makeFifo(guest.dir, "out");
  const reader = spawn("cat", [stdout], { stdio: ["ignore", "pipe", "ignore"] });
  await guest.container.exec({ execId: "e1", stdio: { ...silent, stdout }, processJson });
  await guest.container.start("e1");

  await expect(guest.container.start("e1")).rejects.toMatchObject({ code: "failed_precondition" });

  const stream = guest.fake.streams.get("c1 e1 stdout");
  for (const frame of encodeFrames(Buffer.from("still here"))) stream?.write(frame);
  stream?.write(endFrame);
  const [output] = (await once(reader.stdout, "data")) as [Buffer];
  expect(output.toString()).toBe("still here");
});

test("a start that the guest refuses leaves the exec created, its streams closed, and it can be deleted", async () => {
  await using guest = await startContainer({
    StartProcess: (request) =>
      request["execId"] === "" ? {} : Promise.reject(notFound('Cannot start "x": no such program')),
  });
  await guest.container.start("");
  const stdout = makeFifo(guest.dir, "out");
  const reader = spawn("cat", [stdout], { stdio: "ignore" });
  const process = await guest.container.exec({ execId: "e1", stdio: { ...silent, stdout }, processJson });

  await expect(guest.container.start("e1")).rejects.toThrow("no such program");

  // `cat` sees the end: nobody holds the FIFO any more.
  await once(reader, "exit");
  expect(process.state.tag).toBe("created");
  expect(process.pid).toBe(0);
  await guest.container.delete("e1");
  expect(guest.events).toEqual(["start", "exec-added"]);
});

test("events are in order when an exec exits before its start call has answered", async () => {
  const started = Promise.withResolvers<object>();
  await using guest = await startContainer({
    StartProcess: (request) => (request["execId"] === "" ? {} : started.promise),
  });
  await guest.container.start("");
  const process = await guest.container.exec({ execId: "e1", stdio: silent, processJson });
  const starting = guest.container.start("e1");
  await expect.poll(() => guest.calls("StartProcess")).toBe(2);

  guest.container.onGuestExit("e1", 7);
  started.resolve({});
  await starting;

  expect((await process.wait()).exitCode).toBe(7);
  await expect.poll(() => guest.events).toEqual(["start", "exec-added", "exec-started", "exit e1 7"]);
});

test("the exit of init ends the execs first, each once, whatever the guest repeats", async () => {
  await using guest = await startContainer();
  await guest.container.start("");
  for (const execId of ["e1", "e2", "unstarted"])
    await guest.container.exec({ execId, stdio: silent, processJson });
  await guest.container.start("e1");
  await guest.container.start("e2");

  guest.container.onGuestExit("e1", 0);
  guest.container.onGuestExit("", 3);
  for (const execId of ["e1", "e2", "", "unstarted", "unknown", "__proto__"])
    guest.container.onGuestExit(execId, 99);
  await guest.container.onVmExit(255);

  expect(guest.events.filter((name) => name.startsWith("exit")).sort()).toEqual([
    "exit e1 0",
    "exit e2 137",
    "exit init 3",
  ]);
  expect(guest.events.at(-1)).toBe("exit init 3");
});

test("after init's exit nothing is started, added or signalled", async () => {
  await using guest = await startContainer();
  await guest.container.start("");
  await guest.container.exec({ execId: "e1", stdio: silent, processJson });
  guest.container.onGuestExit("", 0);
  await guest.container.init.wait();

  await expect(guest.container.start("e1")).rejects.toMatchObject({ code: "failed_precondition" });
  await expect(guest.container.start("")).rejects.toMatchObject({ code: "failed_precondition" });
  await expect(guest.container.exec({ execId: "e2", stdio: silent, processJson })).rejects.toMatchObject({
    code: "failed_precondition",
  });
  await expect(guest.container.init.kill(15, false)).rejects.toMatchObject({ code: "not_found" });
});

test("ids of execs: in use, the container's own, unknown", async () => {
  await using guest = await startContainer();
  await guest.container.start("");
  const add = (execId: string) => guest.container.exec({ execId, stdio: silent, processJson });

  const both = await Promise.allSettled([add("e1"), add("e1")]);

  expect(both.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  await expect(add("c1")).rejects.toMatchObject({ code: "already_exists" });
  await add("constructor");
  expect(() => guest.container.process("__proto__")).toThrow(expect.objectContaining({ code: "not_found" }));
});

test("an exec that the guest refuses is forgotten, and its id works at the next try", async () => {
  let refusals = 0;
  await using guest = await startContainer({
    CreateExec: () => (refusals++ === 0 ? Promise.reject(notFound("no such user")) : {}),
  });
  await guest.container.start("");
  const request = { execId: "e1", stdio: silent, processJson };

  await expect(guest.container.exec(request)).rejects.toThrow("no such user");
  await expect(guest.container.exec({ ...request, processJson: Buffer.from("{") })).rejects.toMatchObject({
    code: "invalid_argument",
  });
  await guest.container.exec(request);

  expect(guest.events).toEqual(["start", "exec-added"]);
});

test("delete() of a running init is refused, of a stopped one releases once, and the second finds nothing to do", async () => {
  await using guest = await startContainer();
  await guest.container.start("");
  await expect(guest.container.delete("")).rejects.toMatchObject({ code: "failed_precondition" });
  guest.container.onGuestExit("", 5);
  await guest.container.init.wait();

  const results = await Promise.allSettled([guest.container.delete(""), guest.container.delete("")]);

  expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected"]);
  expect(results[0]).toMatchObject({ value: { exit: { exitCode: 5 }, pid: 4_242 } });
  expect(guest.vm.releases).toBe(1);
  expect(guest.events.at(-1)).toBe("delete");
});

test("delete() of an init that was never started kills it first", async () => {
  await using guest = await startContainer({
    SignalProcess: () => {
      queueMicrotask(() => guest.container.onGuestExit("", 137));
      return {};
    },
  });

  const { exit } = await guest.container.delete("");

  expect(exit.exitCode).toBe(137);
  expect(guest.fake.requests.at(0)?.request).toMatchObject({ containerId: "c1", signal: 9, all: true });
});

test("SIGKILL that the guest does not take within 5 s ends the VM", async () => {
  await using guest = await startContainer({ SignalProcess: never });
  await guest.container.start("");
  const startMs = performance.now();

  await guest.container.init.kill(9, true);

  expect(performance.now() - startMs).toBeLessThan(5_000);
  expect(guest.vm.kills).toBe(1);
});

test("SIGKILL after the loss of the agent ends the VM at once, other failures are the caller's", async () => {
  await using guest = await startContainer({
    SignalProcess: (request) =>
      request["signal"] === 9 ? {} : Promise.reject(new AgentFailure(3, "no such signal")),
  });
  await guest.container.start("");
  await expect(guest.container.init.kill(99, false)).rejects.toMatchObject({ code: "invalid_argument" });
  expect(guest.vm.kills).toBe(0);

  guest.fake.drop();
  await guest.container.init.kill(9, true);

  expect(guest.vm.kills).toBe(1);
});

/** Starts the exec `e1`, which has ended and whose output nobody takes. */
async function startUnread({ dir, container, fake }: Awaited<ReturnType<typeof startContainer>>) {
  const stdout = makeFifo(dir, "out");
  // Opens the FIFO and never reads.
  const reader = spawn("sh", ["-c", 'exec 3<"$0"; echo; exec sleep 60', stdout], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const process = await container.exec({ execId: "e1", stdio: { ...silent, stdout }, processJson });
  await container.start("e1");
  const stream = fake.streams.get("c1 e1 stdout");
  for (const frame of encodeFrames(Buffer.alloc(1024 * 1024))) stream?.write(frame);
  stream?.write(Buffer.alloc(4, 0xff));
  return { process, stream, reader };
}

test("the VM is spared while the exit of a killed container waits for an exec's reader", async () => {
  // Longer than a container that was killed may take to end.
  await using guest = await startContainer({}, 7_000);
  await guest.container.start("");
  const { reader } = await startUnread(guest);

  await guest.container.init.kill(9, true);
  guest.container.onGuestExit("e1", 137);
  guest.container.onGuestExit("", 137);

  expect(await guest.container.init.wait()).toMatchObject({ exitCode: 137 });
  expect(guest.vm.kills).toBe(0);
  await expect.poll(() => guest.events.slice(-2)).toEqual(["exit e1 137", "exit init 137"]);
  reader.kill("SIGKILL");
  await once(reader, "exit");
});

test("the exit is reported although a reader does not take the output, once the drain's time is over", async () => {
  await using guest = await startContainer();
  await guest.container.start("");
  const { process, stream, reader } = await startUnread(guest);

  guest.container.onGuestExit("e1", 0);

  expect(await within(process.wait(), 500, "late")).toBe("late");
  expect(await process.wait()).toMatchObject({ exitCode: 0 });
  await guest.container.delete("e1");
  // The stream is cut, so that the guest does not wait for ever.
  stream?.resume();
  await expect.poll(() => stream?.destroyed).toBe(true);
  reader.kill("SIGKILL");
  await once(reader, "exit");
});

test("kill() of an exec that was not started is failed_precondition, of a deleted one not_found", async () => {
  await using guest = await startContainer();
  await guest.container.start("");
  const process = await guest.container.exec({ execId: "e1", stdio: silent, processJson });

  await expect(process.kill(9, false)).rejects.toMatchObject({ code: "failed_precondition" });
  await guest.container.delete("e1");
  await expect(process.kill(9, false)).rejects.toMatchObject({ code: "not_found" });
  expect(() => guest.container.process("e1")).toThrow(RuntimeError);
  expect(codeOf(await guest.container.delete("e1").catch((error: unknown) => error))).toBe("not_found");
});
