import { expect, test } from "vitest";
import { createModel } from "../bad-input/model.ts";

const never = () => new Promise<never>(() => {});

test("a container takes the VM that was begun for it", async () => {
  await using model = createModel();

  model.prepare();
  await expect.poll(() => model.boots).toBe(1);
  const container = await model.create();
  await container.start("");

  expect(model.boots).toBe(1);
  expect(model.events).toEqual(["create c1", "start c1"]);
  await container.init.kill(9, true);
  await container.init.wait();
  await container.delete("");
  expect(model.leftovers()).toEqual([]);
});

test("a container whose bundle has changed since boots another VM", async () => {
  await using model = createModel();

  model.prepare();
  await expect.poll(() => model.boots).toBe(1);
  await model.create({ spec: { hostname: "another" } });

  expect(model.boots).toBe(2);
  expect(model.sandbox.containers.map(({ id }) => id)).toEqual(["c1"]);
});

test("a container boots another VM when the one that was begun for it has died", async () => {
  await using model = createModel();

  model.prepare();
  await expect.poll(() => model.sandbox.pid).not.toBe(0);
  await model.endVm();
  await model.create();

  expect(model.boots).toBe(2);
  expect(model.events).toEqual(["create c1"]);
});

test("the first of two containers at once takes the VM, the other one joins it", async () => {
  await using model = createModel();

  model.prepare();
  const both = [model.create(), model.create({ request: { containerId: "c2" } })];

  expect((await Promise.all(both)).map(({ id }) => id)).toEqual(["c1", "c2"]);
  expect(model.boots).toBe(1);
});

test.for([
  ["that boots", {}],
  ["whose guest says nothing", { ready: "" }],
  ["whose agent does not answer", { handlers: { Configure: never } }],
] as const)("a close leaves nothing of a VM %s for a container that never came", async ([, guest]) => {
  await using model = createModel(guest);

  model.prepare();
  await expect.poll(() => model.boots).toBe(1);
  const begin = performance.now();
  await model.sandbox.close();

  expect(performance.now() - begin).toBeLessThan(3_000);
  expect(model.leftovers()).toEqual([]);
});

test("a bundle that cannot be run boots nothing, and is refused when it is asked for", async () => {
  await using model = createModel();

  model.prepare({ linux: { namespaces: [{ type: "network", path: "/proc/1/ns/net" }] } });
  await expect(model.create({ spec: "{" })).rejects.toMatchObject({ code: "invalid_argument" });

  expect(model.boots).toBe(0);
  expect(model.leftovers()).toEqual([]);
});

test("a request that is given up ends the boot that was begun before", async () => {
  await using model = createModel({ ready: "" });

  model.prepare();
  await expect.poll(() => model.boots).toBe(1);
  const controller = new AbortController();
  const created = model.sandbox.createContainer(
    {
      containerId: "c1",
      bundle: model.bundle,
      rootfs: [],
      stdio: { stdin: "", stdout: "", stderr: "", terminal: false },
      noPivotRoot: false,
    },
    { signal: controller.signal },
  );
  controller.abort(new Error("given up"));

  await expect(created).rejects.toThrow("given up");
  expect(model.leftovers()).toEqual([]);
});

test("a guest that fails fails the create, after which the id works again", async () => {
  let isBad = true;
  await using model = createModel({
    handlers: {
      Configure: () => {
        if (isBad) throw new Error("planted");
        return { agentVersion: "0.1.0", bootPhases: [] };
      },
    },
  });

  model.prepare();
  await expect(model.create()).rejects.toThrow();
  expect(model.leftovers()).toEqual([]);
  isBad = false;
  await model.create();

  expect(model.boots).toBe(2);
});
