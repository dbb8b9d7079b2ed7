import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { askNameServer } from "../../../src/network/name-server.ts";
import { startNameServer } from "../../support/name-server.ts";
import { makeNetns, signal } from "./pod.ts";

const address = "127.0.0.11";
/** A question for the IPv4 address of "a". */
const message = Buffer.from("123401000001000000000000" + "0161000001" + "0001", "hex");

test.each([false, true])("a name server in a namespace is asked, over TCP: %s", async (overTcp) => {
  using netns = makeNetns();
  await using _server = await startNameServer({ netnsPath: netns.path, address, answer: "10.1.2.3" });
  const ask = () => askNameServer({ netnsPath: netns.path, address, overTcp, message }, signal);
  // The addon keeps one descriptor from the first wait on.
  await ask();
  const descriptors = readdirSync("/proc/self/fd").length;

  const answers = await Promise.all([ask(), ask(), ask()]);

  for (const answer of answers) {
    expect(answer.subarray(0, 2)).toEqual(message.subarray(0, 2));
    expect([...answer.subarray(-4)]).toEqual([10, 1, 2, 3]);
  }
  await new Promise(setImmediate);
  expect(readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(descriptors);
});

test("who does not answer is given up, and who does not listen says so at once", async () => {
  using netns = makeNetns();
  const question = { netnsPath: netns.path, address, message };

  for (const overTcp of [true, false]) {
    await expect(askNameServer({ ...question, overTcp }, signal)).rejects.toMatchObject({
      code: "unavailable",
      cause: { code: "ECONNREFUSED" },
    });
  }
  const silent = `require("node:dgram").createSocket("udp4").bind(53, "${address}", () => console.log("up"))`;
  const child = spawn("nsenter", [`--net=${netns.path}`, "--", process.execPath, "--eval", silent]);
  await once(child.stdout, "data");
  await expect(askNameServer({ ...question, overTcp: false }, AbortSignal.timeout(50))).rejects.toMatchObject(
    { name: "TimeoutError" },
  );
  child.kill("SIGKILL");
  await once(child, "exit");
  const nowhere = { ...question, netnsPath: "/nonexistent", overTcp: false };
  await expect(askNameServer(nowhere, signal)).rejects.toMatchObject({ code: "unavailable" });
});
