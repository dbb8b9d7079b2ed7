import { existsSync, lstatSync, symlinkSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";
import { signalProcess } from "../../../src/base/processes.ts";
import { fetchMetrics } from "../../../src/cli/metrics-fetch.ts";
import { metricsSocketPath } from "../../../src/shim/metrics-socket.ts";
import { taskMethods } from "../../../src/shim/task-api.ts";
import { run } from "../../support/cli-run.ts";
import { createShimProcess, ended, runContainer, service, type ShimProcess } from "./shim-process.ts";

const limits = { timeoutMs: 5000, maxBytes: 1024 * 1024 };

function socketOf(shim: ShimProcess, sandboxId: string): string {
  return metricsSocketPath(shim.dir.join("state"), shim.namespace, sandboxId);
}

/** A daemon with one container that runs. */
async function setUp(id = "a") {
  const shim = createShimProcess();
  const bundle = shim.makeBundle(id, ["sleep"]);
  const { client } = await shim.start({ id });
  await runContainer(client, id, bundle);
  return {
    shim,
    client,
    path: socketOf(shim, id),
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await shim[Symbol.asyncDispose]();
    },
  };
}

/** Everything that the daemon says to these bytes, until it closes. */
async function exchange(path: string, bytes: string): Promise<string> {
  const socket = connect(path);
  socket.end(bytes);
  return await text(socket);
}

test("a daemon serves its metrics on a socket for root only", async () => {
  await using peer = await setUp();

  const answer = await fetchMetrics(peer.path, limits);

  expect(lstatSync(peer.path).mode & 0o777).toBe(0o600);
  for (const line of [
    'caisson_containers{state="running"} 1',
    "caisson_containers_created_total 1",
    'caisson_task_duration_seconds_count{operation="create"} 1',
    'caisson_task_duration_seconds_count{operation="start"} 1',
    "caisson_events_dropped_total 0",
    "caisson_log_lines_dropped_total 0",
  ]) {
    expect(answer).toContain(`\n${line}\n`);
  }
});

test("failures are counted by the kind of the error", async () => {
  await using peer = await setUp();
  const bundle = peer.shim.makeBundle("b", ["fail-create"]);

  await expect(peer.client.call(service, taskMethods.create, { id: "b", bundle })).rejects.toThrow();
  await expect(peer.client.call(service, taskMethods.delete, { id: "a" })).rejects.toThrow();

  const answer = await fetchMetrics(peer.path, limits);
  expect(answer).toContain('\ncaisson_containers_failed_total{operation="create",code="not_found"} 1\n');
  expect(answer).toContain(
    '\ncaisson_task_failures_total{operation="delete",code="failed_precondition"} 1\n',
  );
});

test("other HTTP clients get it too, and HEAD its length", async () => {
  await using peer = await setUp();

  const curl = await run(["curl", "-sS", "--unix-socket", peer.path, "http://localhost/metrics?x=y"]);
  const head = await new Promise<{ status?: number; length?: string; body: string }>((resolve, reject) => {
    request({ socketPath: peer.path, path: "/metrics", method: "HEAD", agent: false }, (response) => {
      const { statusCode: status = 0, headers } = response;
      void text(response).then((body) => resolve({ status, length: headers["content-length"] ?? "", body }));
    })
      .on("error", reject)
      .end();
  });

  expect(curl).toMatchObject({ exitCode: 0, stderr: "" });
  expect(curl.stdout).toContain("\ncaisson_containers_created_total 1\n");
  expect(head).toMatchObject({ status: 200, body: "" });
  expect(Number(head.length)).toBeGreaterThan(1000);
});

test("what is no scrape is refused, and the daemon lives", async () => {
  await using peer = await setUp();
  const status = async (bytes: string) => (await exchange(peer.path, bytes)).split("\r\n")[0];

  expect(await status("GET / HTTP/1.1\r\n\r\n")).toBe("HTTP/1.1 404 Not Found");
  expect(await status("POST /metrics HTTP/1.1\r\n\r\n")).toBe("HTTP/1.1 405 Method Not Allowed");
  expect(await status("\0\xff\r\n\r\n")).toBe("HTTP/1.1 400 Bad Request");
  expect(await status(`GET /metrics HTTP/1.1\r\nX: ${"x".repeat(9000)}`)).toBe(
    "HTTP/1.1 431 Request Header Fields Too Large",
  );
  expect(await status("GET /metrics")).toBe("");
  expect(await status("")).toBe("");
  expect(await status("GET /metrics HTTP/1.0\r\n\r\nmore")).toBe("HTTP/1.1 200 OK");
});

test("clients that say nothing do not keep a daemon from ending", async () => {
  await using peer = await setUp();
  const silent = connect(peer.path);
  const closed = new Promise((resolve) => silent.once("close", resolve));
  await new Promise((resolve) => silent.once("connect", resolve));
  const { daemon } = peer.shim.record("a");

  expect((await peer.shim.run("delete", { id: "a" })).exitCode).toBe(0);

  expect(await ended(daemon)).toBe(true);
  await closed;
  expect(existsSync(peer.path)).toBe(false);
});

test("the socket goes when the daemon ends by itself", async () => {
  await using peer = await setUp();
  const { daemon } = peer.shim.record("a");

  await peer.client.call(service, taskMethods.kill, { id: "a", signal: 9 });
  await peer.client.call(service, taskMethods.wait, { id: "a" });
  await peer.client.call(service, taskMethods.delete, { id: "a" });
  await peer.client.call(service, taskMethods.shutdown, { id: "a" });

  expect(await ended(daemon)).toBe(true);
  expect(existsSync(peer.path)).toBe(false);
});

test("delete removes the socket of a daemon that was killed", async () => {
  await using peer = await setUp();
  const { daemon } = peer.shim.record("a");
  signalProcess(daemon, "SIGKILL");
  expect(await ended(daemon)).toBe(true);
  expect(existsSync(peer.path)).toBe(true);

  expect((await peer.shim.run("delete", { id: "a" })).exitCode).toBe(0);

  expect(peer.shim.leftovers()).toEqual([]);
});

test("a daemon serves in place of a socket that one before it has left", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["sleep"]);
  const first = await shim.start({ id: "a" });
  const { daemon } = shim.record("a");
  signalProcess(daemon, "SIGKILL");
  expect(await ended(daemon)).toBe(true);
  await first.client.closed;

  const second = await shim.start({ id: "a" });
  await runContainer(second.client, "a", bundle);

  expect(await fetchMetrics(socketOf(shim, "a"), limits)).toContain("\ncaisson_containers_created_total 1\n");
  await second.client[Symbol.asyncDispose]();
});

test("caisson metrics: a living, a dead and a hanging daemon", async () => {
  await using shim = createShimProcess();
  const clients = [];
  for (const id of ["live", "dead", "hang"]) {
    const bundle = shim.makeBundle(id, ["sleep"]);
    const { client } = await shim.start({ id });
    await runContainer(client, id, bundle);
    clients.push(client);
  }
  const dead = shim.record("dead").daemon;
  signalProcess(dead, "SIGKILL");
  expect(await ended(dead)).toBe(true);
  signalProcess(shim.record("hang").daemon, "SIGSTOP");
  // Where the command line under test has its state directory.
  const data = shim.dir.join("data");
  await run(["mkdir", data]);
  symlinkSync(shim.dir.join("state"), `${data}/run`);
  const entry = `${import.meta.dirname}/../cli/cli-entry.ts`;

  const result = await run([process.execPath, "--no-warnings", entry, data, "/nowhere", "metrics"]);

  const labels = (id: string) => `namespace="${shim.namespace}",sandbox="${id}"`;
  expect(result.exitCode).toBe(0);
  expect(result.durationMs).toBeLessThan(5000);
  expect(result.stderr).toMatch(/^caisson: sandbox "hang" .* is left out: .*no result within 1000 ms\n$/);
  expect(result.stdout).toContain(
    `caisson_sandbox_up{${labels("hang")}} 0\ncaisson_sandbox_up{${labels("live")}} 1\n# HELP`,
  );
  expect(result.stdout).toContain(`\ncaisson_containers{${labels("live")},state="running"} 1\n`);
  expect(result.stdout).not.toContain("dead");
  for (const client of clients) await client[Symbol.asyncDispose]();
});
