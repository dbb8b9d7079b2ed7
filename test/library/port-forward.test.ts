import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Sandbox } from "../../src/index.ts";
import { createLibrary, type Library } from "../support/library.ts";

let library: Library;
let sandbox: Sandbox;
beforeAll(async () => {
  library = await createLibrary();
  sandbox = await library.create();
});
afterAll(async () => {
  await sandbox.close();
  await library[Symbol.asyncDispose]();
});

test("forwardPort leads to a server in the sandbox", async () => {
  await sandbox.writeFile("/www/index.html", "from the sandbox");
  await sandbox.run("httpd", ["-p", "127.0.0.1:8080", "-h", "/www"]);
  await using forward = await sandbox.forwardPort(8080);
  const url = `http://${forward.host}:${forward.port}/index.html`;

  const answers = await Promise.all([fetch(url), fetch(url)].map(async (answer) => (await answer).text()));
  expect(answers).toEqual(["from the sandbox", "from the sandbox"]);
});

test("a connection that nobody takes in the sandbox is reset", async () => {
  await using forward = await sandbox.forwardPort(9);
  const socket = connect(forward.port, forward.host);

  await expect(text(socket)).rejects.toMatchObject({ code: "ECONNRESET" });
});

test("a half-closed connection gets its answer", async () => {
  await sandbox.spawn("nc", ["-ll", "-p", "8081", "-e", "cat"]);
  await using forward = await sandbox.forwardPort(8081);
  const echoed = async () => {
    const socket = connect(forward.port, forward.host);
    socket.end("all of it");
    return await text(socket).catch(() => "");
  };

  // Until it listens a connection is reset.
  await expect.poll(echoed, { timeout: 60_000 }).toBe("all of it");
});

test("a sandbox that is closed ends its forwards with their connections", async () => {
  await using other = await library.create();
  await other.spawn("nc", ["-ll", "-p", "8081", "-e", "cat"]);
  const forward = await other.forwardPort(8081);
  const open = async () => {
    const socket = connect(forward.port, forward.host);
    socket.write("x");
    const first = await Promise.race([once(socket, "data"), once(socket, "close")]).catch(() => []);
    return Buffer.isBuffer(first[0]) ? socket : undefined;
  };
  let socket: Socket | undefined;
  await expect.poll(async () => (socket = await open()), { timeout: 60_000 }).toBeDefined();
  const closed = new Promise((resolve) => socket?.once("close", resolve));
  socket?.on("error", () => {});
  await other.close();

  await closed;
  const [error] = (await once(connect(forward.port, forward.host), "error")) as [Error & { code?: string }];
  expect(error.code).toBe("ECONNREFUSED");
});

test("a closed forward takes no connections, and a taken port is already_exists", async () => {
  const forward = await sandbox.forwardPort(8080);
  await expect(sandbox.forwardPort(8080, { port: forward.port })).rejects.toMatchObject({
    code: "already_exists",
  });
  await forward.close();

  const [error] = (await once(connect(forward.port, forward.host), "error")) as [Error & { code?: string }];
  expect(error.code).toBe("ECONNREFUSED");
  await expect(sandbox.forwardPort(0)).rejects.toMatchObject({ code: "invalid_argument" });
});
