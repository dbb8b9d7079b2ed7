import { once } from "node:events";
import { constants, openSync, readFileSync } from "node:fs";
import { Socket } from "node:net";
import { expect, test } from "vitest";
import { exec } from "../../../src/base/exec.ts";
import { isAlive, signalProcess } from "../../../src/base/processes.ts";
import { containerd, type google } from "../../../src/gen/containerd.js";
import { containerd as runc } from "../../../src/gen/options.js";
import { taskMethods, taskServiceNames } from "../../../src/shim/task-api.ts";
import type { TtrpcClient } from "../../../src/ttrpc/client.ts";
import { startFakeEventsSink } from "../../support/fake-events-sink.ts";
import { createShimProcess, ended, runContainer, service } from "./shim-process.ts";

const { Status } = containerd.v1.types;
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process";

function execSpec(...args: string[]) {
  return { type_url: processType, value: Buffer.from(JSON.stringify({ args })) };
}

/** A daemon whose events go to a fake containerd, with one container. */
async function setUp(args: readonly string[]) {
  const shim = createShimProcess("/run/some-containerd.sock");
  const ttrpcAddress = shim.dir.join("c.ttrpc");
  const sink = await startFakeEventsSink(ttrpcAddress);
  const bundle = shim.makeBundle("a", args);
  const socketDir = shim.dir.join("s");
  const params = {
    instanceId: "a",
    namespace: shim.namespace,
    socketDir,
    containerdTtrpcAddress: ttrpcAddress,
  };
  const { BootstrapParams } = (await import("../../../src/gen/bootstrap.js")).containerd.runtime.bootstrap.v1;
  const { client } = await shim.start({ id: "a", stdin: BootstrapParams.encode(params).finish() });
  const call = <Name extends keyof typeof taskMethods>(
    name: Name,
    request: Parameters<(typeof taskMethods)[Name]["request"]["encode"]>[0],
  ) => client.call(service, taskMethods[name] as never, request as never) as Promise<Record<string, never>>;
  return {
    shim,
    sink,
    bundle,
    client,
    call,
    code: (promise: Promise<unknown>) =>
      promise.then(
        () => "ok",
        (error: { code: string }) => error.code,
      ),
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await sink[Symbol.asyncDispose]();
      await shim[Symbol.asyncDispose]();
    },
  };
}

test("a container's life: calls, states and events in containerd's order, under both names", async () => {
  await using peer = await setUp(["sleep"]);
  const { client, bundle, sink } = peer;
  const [v2, v3] = taskServiceNames;
  const id = "a";
  const stateOf = async (name: string) => (await client.call(name, taskMethods.state, { id })).status;

  const { pid } = await client.call(v2, taskMethods.create, {
    id,
    bundle,
    rootfs: [{ type: "bind", source: "/x" }],
  });
  expect((await client.call(v3, taskMethods.connect, { id })).taskPid).toBe(pid);
  expect(await stateOf(v3)).toBe(Status.CREATED);
  const waits = [v2, v3, v3].map((name) => client.call(name, taskMethods.wait, { id }));
  await client.call(v3, taskMethods.start, { id });
  expect(await stateOf(v2)).toBe(Status.RUNNING);
  expect((await client.call(v2, taskMethods.pids, { id })).processes).toMatchObject([{ pid }]);
  await client.call(v2, taskMethods.kill, { id, signal: 15, all: true });
  for (const wait of waits) expect((await wait).exitStatus).toBe(143);
  expect(await stateOf(v2)).toBe(Status.STOPPED);
  expect(await client.call(v2, taskMethods.delete, { id })).toMatchObject({ pid, exitStatus: 143 });
  await client.call(v3, taskMethods.shutdown, { id });
  await client.closed;

  expect(sink.topics).toEqual(["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
  expect(sink.events[0]?.message).toMatchObject({
    containerId: id,
    bundle,
    pid,
    rootfs: [{ type: "bind", source: "/x" }],
  });
  expect(sink.events[2]?.message).toMatchObject({ containerId: id, id, exitStatus: 143 });
  expect(sink.events.every(({ namespace }) => namespace === peer.shim.namespace)).toBe(true);
  expect(await ended(peer.shim.record(id).daemon)).toBe(true);
});

test("execs: registered, started, waited for, deleted; the id can be used again", async () => {
  await using peer = await setUp(["sleep"]);
  await runContainer(peer.client, "a", peer.bundle);

  for (let round = 0; round < 2; round++) {
    await peer.call("exec", { id: "a", execId: "e", spec: execSpec("exit", "3") });
    expect(await peer.code(peer.call("exec", { id: "a", execId: "e", spec: execSpec("sleep") }))).toBe(
      "already_exists",
    );
    expect(await peer.code(peer.call("kill", { id: "a", execId: "e", signal: 9 }))).toBe(
      "failed_precondition",
    );
    expect(await peer.call("state", { id: "a", execId: "e" })).toMatchObject({
      pid: 0,
      execId: "e",
      status: Status.CREATED,
    });
    await peer.call("start", { id: "a", execId: "e" });
    expect(await peer.call("wait", { id: "a", execId: "e" })).toMatchObject({ exitStatus: 3 });
    expect(await peer.code(peer.call("kill", { id: "a", execId: "e", signal: 9 }))).toBe("not_found");
    expect(await peer.call("delete", { id: "a", execId: "e" })).toMatchObject({ exitStatus: 3 });
    expect(await peer.code(peer.call("delete", { id: "a", execId: "e" }))).toBe("not_found");
  }

  await peer.sink.received(8);
  expect(peer.sink.topics.slice(2, 5)).toEqual(["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]);
  expect(peer.sink.events[4]?.message).toMatchObject({ containerId: "a", id: "e", exitStatus: 3 });
});

test("an exec that cannot start fails its Start and can be deleted with status 0", async () => {
  await using peer = await setUp(["sleep"]);
  await runContainer(peer.client, "a", peer.bundle);
  await peer.call("exec", { id: "a", execId: "e", spec: execSpec("fail-start") });
  const wait = peer.call("wait", { id: "a", execId: "e" });

  expect(await peer.code(peer.call("start", { id: "a", execId: "e" }))).toBe("not_found");
  expect(await peer.call("delete", { id: "a", execId: "e" })).toMatchObject({ exitStatus: 0 });

  expect(await wait).toMatchObject({ exitStatus: 0 });
  expect(peer.sink.topics).not.toContain("/tasks/exec-started");
});

test("calls for what is not there, and calls that are not served", async () => {
  await using peer = await setUp(["sleep"]);
  await runContainer(peer.client, "a", peer.bundle);
  const unknown = { id: "b", execId: "" };
  const codes: Record<string, string> = {};

  for (const name of [
    ...(["state", "start", "wait", "delete", "pids", "resizePty", "closeIo"] as const),
    ...(["pause", "resume", "update", "stats"] as const),
  ]) {
    codes[name] = await peer.code(peer.call(name, unknown));
  }
  expect(new Set(Object.values(codes))).toEqual(new Set(["not_found"]));
  expect(await peer.code(peer.call("state", { id: "a", execId: "x" }))).toBe("not_found");
  expect(await peer.code(peer.call("kill", { id: "b", signal: 9 }))).toBe("not_found");
  expect(await peer.code(peer.call("kill", { id: "a", signal: 65 }))).toBe("invalid_argument");
  expect(await peer.code(peer.call("state", { id: "../a" }))).toBe("invalid_argument");
  expect(await peer.call("connect", { id: "../a" })).toMatchObject({ taskPid: 0 });
  expect(await peer.code(peer.call("checkpoint", { id: "a", path: "/x" }))).toBe("unimplemented");
  expect(await peer.code(peer.call("update", { id: "a" }))).toBe("invalid_argument");
});

test("Pause and Resume change every process, refuse other states, and have events", async () => {
  await using peer = await setUp(["sleep"]);
  await peer.call("create", { id: "a", bundle: peer.bundle });
  expect(await peer.code(peer.call("pause", { id: "a" }))).toBe("failed_precondition");
  await peer.call("start", { id: "a" });
  await peer.call("exec", { id: "a", execId: "e", spec: execSpec("sleep") });
  await peer.call("start", { id: "a", execId: "e" });
  expect(await peer.code(peer.call("resume", { id: "a" }))).toBe("failed_precondition");

  await peer.call("pause", { id: "a" });
  expect(await peer.call("state", { id: "a" })).toMatchObject({ status: Status.PAUSED });
  expect(await peer.call("state", { id: "a", execId: "e" })).toMatchObject({ status: Status.PAUSED });
  expect(await peer.code(peer.call("pause", { id: "a" }))).toBe("failed_precondition");
  await peer.call("resume", { id: "a" });
  expect(await peer.call("state", { id: "a", execId: "e" })).toMatchObject({ status: Status.RUNNING });

  await peer.sink.received(6);
  expect(peer.sink.topics.slice(4)).toEqual(["/tasks/paused", "/tasks/resumed"]);
});

test("Stats is there before the start and after the end, until Delete; Pids names the execs", async () => {
  await using peer = await setUp(["sleep"]);
  const { pid } = await peer.call("create", { id: "a", bundle: peer.bundle });
  const typeUrl = /^io\.containerd\.cgroups\.v[12]\.Metrics$/;
  const stats = async () => {
    const answer = (await peer.call("stats", { id: "a" })) as { stats?: google.protobuf.Any.$Properties };
    expect(answer.stats?.type_url).toMatch(typeUrl);
    expect(answer.stats?.value?.length).toBeGreaterThan(10);
  };
  const pids = async () => {
    const { processes } = await peer.client.call(service, taskMethods.pids, { id: "a" });
    return processes.map(({ info, ...rest }) => [
      rest.pid,
      info ? runc.runc.v1.ProcessDetails.decode(info.value ?? Buffer.of()).execId : "",
    ]);
  };

  await stats();
  expect(await pids()).toEqual([[pid, ""]]);
  await peer.call("start", { id: "a" });
  await peer.call("exec", { id: "a", execId: "e", spec: execSpec("sleep") });
  expect(await pids()).toEqual([[pid, ""]]);
  await peer.call("start", { id: "a", execId: "e" });
  expect(await pids()).toEqual([
    [pid, ""],
    [pid, "e"],
  ]);
  await peer.call("kill", { id: "a", signal: 9 });
  expect(await pids()).toEqual([[pid, ""]]);
  await stats();
  await peer.call("delete", { id: "a" });
  expect(await peer.code(stats())).toBe("not_found");
});

test("states refuse what they do not allow", async () => {
  await using peer = await setUp(["sleep"]);
  await peer.call("create", { id: "a", bundle: peer.bundle });

  expect(await peer.code(peer.call("create", { id: "a", bundle: peer.bundle }))).toBe("already_exists");
  await peer.call("resizePty", { id: "a", width: 80, height: 24 });
  await peer.call("closeIo", { id: "a", stdin: true });
  await peer.call("start", { id: "a" });
  expect(await peer.code(peer.call("start", { id: "a" }))).toBe("failed_precondition");
  expect(await peer.code(peer.call("delete", { id: "a" }))).toBe("failed_precondition");
  await peer.call("kill", { id: "a", signal: 9 });
  expect(await peer.code(peer.call("exec", { id: "a", execId: "e", spec: execSpec("sleep") }))).toBe(
    "failed_precondition",
  );
  await peer.call("delete", { id: "a" });
  expect(await peer.code(peer.call("delete", { id: "a" }))).toBe("not_found");
});

test("a failed Create leaves no event, and the same id works again after the clean-up of containerd", async () => {
  await using peer = await setUp(["fail-create"]);

  expect(await peer.code(peer.call("create", { id: "a", bundle: peer.bundle }))).toBe("not_found");
  expect(await peer.code(peer.call("delete", { id: "a" }))).toBe("not_found");
  await peer.call("shutdown", { id: "a" });
  await peer.client.closed;

  expect(peer.sink.events).toEqual([]);
  expect(await ended(peer.shim.record("a").daemon)).toBe(true);
});

test("a Create that hangs delays nobody, and Shutdown gives it up", async () => {
  await using peer = await setUp(["hang-create"]);
  const other = peer.shim.makeBundle("other", ["sleep"]);
  const hanging = peer.code(peer.call("create", { id: "a", bundle: peer.bundle }));

  await runContainer(peer.client, "other", other);
  expect(await peer.call("state", { id: "other" })).toMatchObject({ status: Status.RUNNING });
  await peer.call("kill", { id: "other", signal: 9 });
  await peer.call("delete", { id: "other" });
  await peer.call("shutdown", { id: "other" });
  expect(isAlive(peer.shim.record("a").daemon)).toBe(true);
  await peer.call("shutdown", { id: "a" });

  expect(await hanging).toMatch(/canceled|unavailable/);
  expect(await ended(peer.shim.record("a").daemon)).toBe(true);
});

test("the end of the connection gives up its Create and nothing else", async () => {
  await using peer = await setUp(["slow-create", "60000"]);
  const { TtrpcClient } = await import("../../../src/ttrpc/client.ts");
  const second: TtrpcClient = await TtrpcClient.connect(peer.shim.record("a").socketPath);
  const created = second.call(service, taskMethods.create, { id: "a", bundle: peer.bundle });
  created.catch(() => {});
  await second.call(service, taskMethods.connect, { id: "a" });

  await second[Symbol.asyncDispose]();

  // The id is free again once it was rolled back: the next attempt is not refused but waits as the first did.
  await expect
    .poll(() =>
      peer.code(
        peer.client.call(service, taskMethods.create, { id: "a", bundle: peer.bundle }, { timeoutMs: 50 }),
      ),
    )
    .toBe("deadline_exceeded");
});

test("Shutdown is ignored while a container is there", async () => {
  await using peer = await setUp(["sleep"]);
  await runContainer(peer.client, "a", peer.bundle);

  await peer.call("shutdown", { id: "a" });
  await peer.call("shutdown", { id: "other" });

  expect(await peer.call("state", { id: "a" })).toMatchObject({ status: Status.RUNNING });
});

test("SIGTERM ends the containers, leaves their exits to containerd, and removes the socket", async () => {
  await using peer = await setUp(["sleep"]);
  await runContainer(peer.client, "a", peer.bundle);
  const { daemon, socketPath } = peer.shim.record("a");

  for (let count = 0; count < 3; count++) signalProcess(daemon, "SIGTERM");

  expect(await ended(daemon)).toBe(true);
  expect(peer.sink.topics).toEqual(["/tasks/create", "/tasks/start"]);
  expect(() => readFileSync(socketPath)).toThrowError(/ENOENT/);
});

test("an unhandled rejection, SIGUSR1 and SIGHUP do not end the daemon", async () => {
  await using peer = await setUp(["throw"]);
  await runContainer(peer.client, "a", peer.bundle);
  const { daemon } = peer.shim.record("a");

  signalProcess(daemon, "SIGUSR1");
  signalProcess(daemon, "SIGHUP");

  const log = () => readFileSync(`${peer.bundle}/log`, "utf8");
  await expect.poll(log).toContain("planted rejection");
  expect(await peer.call("state", { id: "a" })).toMatchObject({ status: Status.RUNNING });
});

test("the log FIFO is written to, and nobody reading it stops nothing", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["sleep"]);
  const fifo = `${bundle}/log`;
  await exec(["mkfifo", fifo]);
  const reader = new Socket({ fd: openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK) });
  const { client } = await shim.start({ id: "a" });
  const [line] = (await once(reader, "data")) as [Buffer];
  expect(line.toString()).toContain('"msg":"daemon serves"');

  reader.destroy();
  await runContainer(client, "a", bundle);
  // Each makes a warning; together they are more than the pipe holds.
  const options = { type_url: `unknown.${"x".repeat(1000)}` };
  for (let count = 0; count < 200; count++) {
    const call = client.call(service, taskMethods.create, { id: "a", bundle, options });
    await expect(call).rejects.toMatchObject({ code: "already_exists" });
  }

  expect(await client.call(service, taskMethods.state, { id: "a" })).toMatchObject({
    status: Status.RUNNING,
  });
  await client[Symbol.asyncDispose]();
});

test("events of a containerd that was away are delivered at the end", async () => {
  await using peer = await setUp(["sleep"]);
  await peer.sink.stop();
  await runContainer(peer.client, "a", peer.bundle);
  await peer.call("kill", { id: "a", signal: 9 });
  await peer.call("delete", { id: "a" });

  await peer.sink.restart();
  await peer.call("shutdown", { id: "a" });
  await peer.client.closed;

  expect(peer.sink.topics).toEqual(["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
});

test("256 requests at once and a thousand Waits are served", async () => {
  await using peer = await setUp(["sleep"]);
  await runContainer(peer.client, "a", peer.bundle);

  const waits = Array.from({ length: 1000 }, () => peer.call("wait", { id: "a" }));
  const states = await Promise.all(Array.from({ length: 256 }, () => peer.call("state", { id: "a" })));
  await peer.call("kill", { id: "a", signal: 9 });

  expect(states).toHaveLength(256);
  expect(new Set((await Promise.all(waits)).map(({ exitStatus }) => exitStatus))).toEqual(new Set([137]));
});

test("runc's options and unknown ones are accepted", async () => {
  await using peer = await setUp(["sleep"]);
  const value = runc.runc.v1.Options.encode({ noPivotRoot: true, binaryName: "x" }).finish();
  const other = peer.shim.makeBundle("b", ["sleep"]);

  await peer.call("create", {
    id: "a",
    bundle: peer.bundle,
    options: { type_url: "containerd.runc.v1.Options", value },
  });
  await peer.call("create", { id: "b", bundle: other, options: { type_url: "some.Other", value } });

  expect(readFileSync(`${peer.bundle}/log`, "utf8")).toContain("some.Other");
});
