import { once } from "node:events";
import { connect } from "node:net";
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

test("a connection that nobody takes in the sandbox is closed", async () => {
  await using forward = await sandbox.forwardPort(9);
  const socket = connect(forward.port, forward.host);

  expect(await text(socket).catch(() => "")).toBe("");
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
