import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { expect, test } from "vitest";
import { isAlive, signalProcess } from "../../../src/base/processes.ts";
import { containerd as runc } from "../../../src/gen/options.js";
import { google } from "../../../src/gen/bootstrap.js";
import { taskMethods } from "../../../src/shim/task-api.ts";
import { createShimProcess, ended, runContainer, service, type ShimProcess } from "./shim-process.ts";

const settings = 'daemon = "node"';

/** Starts sandboxes of one container each, all at once. */
async function startAll(shim: ShimProcess, ids: readonly string[]) {
  return await Promise.all(
    ids.map(async (id) => {
      const bundle = shim.makeBundle(id, ["sleep"]);
      const { client } = await shim.start({ id });
      await runContainer(client, id, bundle);
      return { id, client, daemon: shim.record(id).daemon };
    }),
  );
}

const deleteExitCode = async (shim: ShimProcess, id: string) => (await shim.run("delete", { id })).exitCode;
const socketsIn = (shim: ShimProcess) => readdirSync(shim.dir.join("state/.node"));

test("sandboxes that start at once have one daemon, which ends with the last of them", async () => {
  await using shim = createShimProcess("", settings);
  const started = await startAll(shim, ["a", "b", "c", "d"]);
  const [first] = started;
  if (first === undefined) throw new Error("None was started");
  expect(new Set(started.map(({ daemon }) => daemon.pid)).size).toBe(1);
  expect(shim.record("a")).toMatchObject({ servesMany: true });
  expect(readFileSync(`/proc/${first.daemon.pid}/cmdline`, "latin1")).toContain("-node");

  for (const [index, { id, client, daemon }] of started.entries()) {
    await client.call(service, taskMethods.kill, { id, signal: 9 });
    expect((await client.call(service, taskMethods.wait, { id })).exitStatus).toBe(137);
    await client.call(service, taskMethods.delete, { id });
    await client.call(service, taskMethods.shutdown, { id });
    await client.closed;
    expect(await deleteExitCode(shim, id)).toBe(0);
    for (const other of started.slice(index + 1))
      expect(await other.client.call(service, taskMethods.connect, { id: other.id })).toMatchObject({
        shimPid: daemon.pid,
      });
  }

  expect(await ended(first.daemon)).toBe(true);
  expect(socketsIn(shim)).toEqual([]);
  expect(shim.leftovers()).toEqual([]);
});

test("delete of a sandbox that runs ends it and nothing else", async () => {
  await using shim = createShimProcess("", settings);
  const [, b] = await startAll(shim, ["a", "b"]);

  expect(await deleteExitCode(shim, "a")).toBe(0);

  expect(existsSync(shim.dir.join(`state/${shim.namespace}/a`))).toBe(false);
  expect(await b?.client.call(service, taskMethods.state, { id: "b" })).toMatchObject({ id: "b" });
  // The id can be used again, in the same daemon.
  const again = await shim.start({ id: "a" });
  expect(shim.record("a").daemon).toEqual(b?.daemon);
  await again.client[Symbol.asyncDispose]();
});

test("SIGKILL of the daemon: delete of each sandbox leaves nothing", async () => {
  await using shim = createShimProcess("", settings);
  const started = await startAll(shim, ["a", "b"]);
  signalProcess(shim.record("a").daemon, "SIGKILL");
  for (const { client } of started) await client.closed;

  for (const { id } of started) expect(await deleteExitCode(shim, id)).toBe(0);

  expect(socketsIn(shim)).toEqual([]);
  expect(shim.leftovers()).toEqual([]);
});

test("SIGKILL of the daemon: the next start has another one", async () => {
  await using shim = createShimProcess("", settings);
  const [a] = await startAll(shim, ["a"]);
  signalProcess(shim.record("a").daemon, "SIGKILL");
  await a?.client.closed;

  const [b] = await startAll(shim, ["b"]);

  expect(b?.daemon).not.toEqual(a?.daemon);
  expect(socketsIn(shim)).toHaveLength(1);
});

test("delete does not kill a silent daemon that has another sandbox", async () => {
  await using shim = createShimProcess("", settings);
  const [a] = await startAll(shim, ["a", "b"]);
  if (a === undefined) throw new Error("None was started");
  signalProcess(a.daemon, "SIGSTOP");

  expect(await deleteExitCode(shim, "a")).toBe(1);

  expect(isAlive(a.daemon)).toBe(true);
  rmSync(shim.dir.join(`state/.shims/${shim.namespace}+b.json`));
  expect(await deleteExitCode(shim, "a")).toBe(0);
  expect(await ended(a.daemon)).toBe(true);
});

test("SIGTERM ends all sandboxes in order", async () => {
  await using shim = createShimProcess("", settings);
  const started = await startAll(shim, ["a", "b"]);
  signalProcess(shim.record("a").daemon, "SIGTERM");
  for (const { client } of started) await client.closed;

  expect(await ended(shim.record("a").daemon)).toBe(true);
  expect(socketsIn(shim)).toEqual([]);
});

test("a sandbox that takes its process to a cgroup has one of its own", async () => {
  await using shim = createShimProcess("", settings);
  const [a] = await startAll(shim, ["a"]);
  const value = runc.runc.v1.Options.encode({ shimCgroup: "/" }).finish();
  const stdin = google.protobuf.Any.encode({ type_url: "containerd.runc.v1.Options", value }).finish();
  shim.makeBundle("b", ["sleep"]);

  const { client } = await shim.start({ id: "b", stdin });

  expect(shim.record("b").daemon).not.toEqual(a?.daemon);
  expect(shim.record("b").servesMany).toBe(false);
  await client[Symbol.asyncDispose]();
});

test("a start that fails is told why, and the daemon goes on for the others", async () => {
  await using shim = createShimProcess("", settings);
  const [a] = await startAll(shim, ["a"]);
  shim.makeBundle("b", ["sleep"]);

  const outcome = await shim.run("start", { id: "b", stdin: Buffer.from("neither of them") });

  expect(outcome.exitCode).toBe(1);
  expect(outcome.stderr).toContain("expected BootstrapParams");
  expect(await a?.client.call(service, taskMethods.state, { id: "a" })).toMatchObject({ id: "a" });
});
