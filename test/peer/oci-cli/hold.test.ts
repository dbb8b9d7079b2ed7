import { expect, test } from "vitest";
import { TaskClient } from "../../../src/client/task-client.ts";
import { shimMethods, shimServiceName } from "../../../src/shim/shim-api.ts";
import { taskMethods } from "../../../src/shim/task-api.ts";
import { createShimProcess, service } from "../shim/shim-process.ts";

/** A daemon with a started container whose process sleeps. */
async function setUp() {
  const shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["sleep"]);
  const { client, address } = await shim.start({ id: "a" });
  await client.call(service, taskMethods.create, { id: "a", bundle });
  await client.call(service, taskMethods.start, { id: "a" });
  return {
    client,
    address,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await shim[Symbol.asyncDispose]();
    },
  };
}

test("hold() kills the process when its caller's connection closes", async () => {
  await using daemon = await setUp();
  const holder = await TaskClient.connect(daemon.address, "a");
  const held = holder.hold("", 0);
  held.catch(() => {});
  // The calls of one connection are served in their order: it is held when this is answered.
  expect(await holder.status("")).toBe("running");

  await holder[Symbol.asyncDispose]();

  const exit = await daemon.client.call(service, taskMethods.wait, { id: "a" });
  expect(exit.exitStatus).toBe(137);
});

test("hold() answers when the process has ended; an unknown one is not_found", async () => {
  await using daemon = await setUp();
  await using holder = await TaskClient.connect(daemon.address, "a");
  const held = holder.hold("", 0);
  await holder.kill("", 15);

  await held;

  expect(await holder.status("")).toBe("stopped");
  const unknown = daemon.client.call(shimServiceName, shimMethods.hold, { containerId: "b" });
  await expect(unknown).rejects.toMatchObject({ code: "not_found" });
});
