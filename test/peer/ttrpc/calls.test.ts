import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { expect, test } from "vitest";
import { TtrpcClient } from "../../../src/ttrpc/client.ts";
import { methods, serviceName, startEchoServer } from "./echo-server.ts";

test("call() gets the answer of the method", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);

  const answer = await client.call(serviceName, methods.echo, { key: "a", value: "ü" });

  expect(answer).toMatchObject({ key: "a", value: "ü" });
  expect(statSync(server.path).mode & 0o777).toBe(0o600);
});

test("call() of a thousand at once gets each its own answer", async () => {
  await using server = await startEchoServer({ maxCalls: 1000 });
  await using client = await TtrpcClient.connect(server.path);

  const keys = Array.from({ length: 1000 }, (_, index) => String(index));
  const answers = await Promise.all(keys.map((key) => client.call(serviceName, methods.echo, { key })));

  expect(answers.map(({ key }) => key)).toEqual(keys);
});

test("call() carries 3 MiB both ways", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);
  const value = "x".repeat(3 * 1024 * 1024);

  expect((await client.call(serviceName, methods.echo, { value })).value).toBe(value);
});

test("call() refuses a request that does not fit a frame, and the connection goes on", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);

  const call = client.call(serviceName, methods.echo, { value: "x".repeat(4 * 1024 * 1024) });

  await expect(call).rejects.toMatchObject({ code: "resource_exhausted" });
  expect((await client.call(serviceName, methods.echo, { key: "b" })).key).toBe("b");
});

test("an answer that does not fit a frame becomes resource_exhausted, and the connection goes on", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);

  const call = client.call(serviceName, methods.large, { value: String(4 * 1024 * 1024) });

  await expect(call).rejects.toMatchObject({ code: "resource_exhausted" });
  expect((await client.call(serviceName, methods.echo, { key: "b" })).key).toBe("b");
});

test("call() rejects with the kind and the message that the handler threw", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);

  const call = client.call(serviceName, methods.fail, { key: "failed_precondition", value: "it runs" });

  await expect(call).rejects.toMatchObject({ code: "failed_precondition", message: "it runs" });
  expect(server.internalErrors).toEqual([]);
});

test("an exception in a handler becomes internal, is reported, and nothing else suffers", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);

  await expect(client.call(serviceName, methods.fail, { key: "bug", value: "oops" })).rejects.toMatchObject({
    code: "internal",
    message: "oops",
  });
  expect(server.internalErrors).toHaveLength(1);
  expect((await client.call(serviceName, methods.echo, { key: "b" })).key).toBe("b");
});

test("methods and services that are not served answer unimplemented with their name", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);

  await expect(client.call(serviceName, methods.missing, {})).rejects.toMatchObject({
    code: "unimplemented",
    message: "method Missing",
  });
  await expect(client.call("no.Such", methods.echo, {})).rejects.toMatchObject({
    code: "unimplemented",
    message: "service no.Such",
  });
});

test("a call's deadline reaches the handler, and the caller is answered also when the handler goes on", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);

  const [hanging, deaf] = await Promise.allSettled([
    client.call(serviceName, methods.hang, {}, { timeoutMs: 50 }),
    client.call(serviceName, methods.deaf, {}, { timeoutMs: 50 }),
  ]);

  expect(hanging).toMatchObject({ status: "rejected", reason: { code: "deadline_exceeded" } });
  expect(deaf).toMatchObject({ status: "rejected", reason: { code: "deadline_exceeded" } });
  await expect.poll(() => server.aborted).toMatchObject([{ code: "deadline_exceeded" }]);
});

test("an aborted call rejects with the signal's reason and its late answer is ignored", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);
  const controller = new AbortController();

  const call = client.call(serviceName, methods.deaf, {}, { signal: controller.signal });
  controller.abort(new Error("enough"));

  await expect(call).rejects.toThrow("enough");
  expect(await client.call(serviceName, methods.deaf, {})).toBeDefined();
});

test("the end of a connection aborts its calls on both sides, and no other connection's", async () => {
  await using server = await startEchoServer();
  await using other = await TtrpcClient.connect(server.path);
  const client = await TtrpcClient.connect(server.path);
  const hanging = client.call(serviceName, methods.hang, {});
  const otherHanging = other.call(serviceName, methods.deaf, {});
  await client.call(serviceName, methods.echo, {});

  await client[Symbol.asyncDispose]();

  await expect(hanging).rejects.toMatchObject({ code: "unavailable" });
  await expect.poll(() => server.aborted).toMatchObject([{ code: "canceled" }]);
  await expect(otherHanging).resolves.toBeDefined();
  await expect(client.call(serviceName, methods.echo, {})).rejects.toMatchObject({ code: "unavailable" });
});

test("close() of the server ends connections and removes the socket", async () => {
  await using server = await startEchoServer();
  await using client = await TtrpcClient.connect(server.path);
  const hanging = client.call(serviceName, methods.hang, {});
  await client.call(serviceName, methods.echo, {});

  await Promise.all([server.close(), expect(hanging).rejects.toMatchObject({ code: "unavailable" })]);

  await client.closed;
  await expect(TtrpcClient.connect(server.path)).rejects.toMatchObject({
    code: "unavailable",
    cause: { code: "ENOENT" },
  });
});

test("listen() says already_exists where something is bound", async () => {
  await using server = await startEchoServer();
  const { TtrpcServer } = await import("../../../src/ttrpc/server.ts");
  const second = new TtrpcServer({ services: [], onInternalError: () => {} });

  await expect(second.listen(server.path)).rejects.toMatchObject({ code: "already_exists" });
  // Nothing of the second one is there, and the first one still serves.
  expect(readdirSync(dirname(server.path))).toEqual([basename(server.path)]);
  const client = await TtrpcClient.connect(server.path);
  await client[Symbol.asyncDispose]();
  rmSync(server.path);
  await second.listen(server.path);
  await second.close(0);
  expect(existsSync(server.path)).toBe(false);
});
