import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { exec } from "../../../src/base/exec.ts";
import { isAlive, signalProcess } from "../../../src/base/processes.ts";
import { toBigInt } from "../../../src/gen/int64.ts";
import { taskMethods } from "../../../src/shim/task-api.ts";
import { mountsBelow } from "../../support/temp-dir.ts";
import {
  createShimProcess,
  decodeDeleteResponse,
  ended,
  runContainer,
  service,
  type ShimProcess,
} from "./shim-process.ts";

const pod = { "io.kubernetes.cri.sandbox-id": "pod" };

/** Runs `delete` and checks what containerd relies on: the answer alone on stdout, nothing left, in time. */
async function deleteOk(shim: ShimProcess, id: string, cwd?: string): Promise<void> {
  const outcome = await shim.run("delete", {
    id,
    flags: ["-bundle", shim.dir.join("bundles", id)],
    ...(cwd === undefined ? {} : { cwd }),
  });
  expect(outcome).toMatchObject({ exitCode: 0, stderr: "" });
  // containerd gives it five seconds.
  expect(outcome.milliseconds).toBeLessThan(4000);
  const { exitStatus, exitedAt } = decodeDeleteResponse(outcome);
  expect(exitStatus).toBe(137);
  expect(Math.abs(Number(toBigInt(exitedAt?.seconds)) - Date.now() / 1000)).toBeLessThan(10);
}

test("delete after Delete and Shutdown waits for the daemon's end and leaves nothing", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["exit", "0"]);
  const { client } = await shim.start({ id: "a" });
  await runContainer(client, "a", bundle);
  await client.call(service, taskMethods.delete, { id: "a" });
  const { daemon } = shim.record("a");
  await client.call(service, taskMethods.shutdown, { id: "a" });

  await deleteOk(shim, "a");

  expect(isAlive(daemon)).toBe(false);
  expect(shim.leftovers()).toEqual([]);
  await client.closed;
});

test("delete ends a daemon that never got its container", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const { client } = await shim.start({ id: "a" });
  const { daemon } = shim.record("a");

  await deleteOk(shim, "a");

  expect(isAlive(daemon)).toBe(false);
  expect(shim.leftovers()).toEqual([]);
  await client.closed;
});

test("delete ends a running container and its daemon", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["sleep"]);
  const { client } = await shim.start({ id: "a" });
  await runContainer(client, "a", bundle);
  const { daemon } = shim.record("a");

  await deleteOk(shim, "a");

  expect(isAlive(daemon)).toBe(false);
  expect(shim.leftovers()).toEqual([]);
  await client.closed;
});

test("delete ends a container in the making", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["hang-create"]);
  const { client } = await shim.start({ id: "a" });
  const created = client.call(service, taskMethods.create, { id: "a", bundle });
  created.catch(() => {});
  await client.call(service, taskMethods.connect, { id: "a" });

  await deleteOk(shim, "a");

  await expect(created).rejects.toMatchObject({
    code: expect.stringMatching(/canceled|unavailable/) as string,
  });
  expect(shim.leftovers()).toEqual([]);
  await client.closed;
});

test("delete after SIGKILL of the daemon, twice, also when the bundle is gone", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["sleep"]);
  const { client } = await shim.start({ id: "a" });
  await runContainer(client, "a", bundle);
  signalProcess(shim.record("a").daemon, "SIGKILL");
  await client.closed;
  rmSync(bundle, { recursive: true });

  await deleteOk(shim, "a", shim.dir.path);
  await deleteOk(shim, "a", shim.dir.path);

  expect(shim.leftovers()).toEqual([]);
});

test("delete without a record goes by the address in the bundle, then by the ids", async () => {
  await using shim = createShimProcess();
  for (const id of ["a", "b"]) {
    const bundle = shim.makeBundle(id, ["sleep"]);
    const { client } = await shim.start({ id });
    const { daemon } = shim.record(id);
    rmSync(shim.dir.join("state/.shims", `${shim.namespace}+${id}.json`));
    if (id === "b") rmSync(`${bundle}/address`);

    await deleteOk(shim, id);

    expect(await ended(daemon)).toBe(true);
    await client.closed;
  }
  expect(shim.leftovers()).toEqual([]);
});

test("delete of one container of a group leaves the others and the daemon", async () => {
  await using shim = createShimProcess();
  const podBundle = shim.makeBundle("pod", ["sleep"], pod);
  const appBundle = shim.makeBundle("app", ["sleep"], pod);
  const first = await shim.start({ id: "pod" });
  const second = await shim.start({ id: "app" });
  await runContainer(first.client, "pod", podBundle);
  await runContainer(second.client, "app", appBundle);
  const { daemon } = shim.record("pod");

  await deleteOk(shim, "app");

  expect(isAlive(daemon)).toBe(true);
  const call = first.client.call(service, taskMethods.state, { id: "app" });
  await expect(call).rejects.toMatchObject({ code: "not_found" });
  expect(await first.client.call(service, taskMethods.state, { id: "pod" })).toMatchObject({ status: 2 });

  await deleteOk(shim, "pod");
  expect(isAlive(daemon)).toBe(false);
  expect(shim.leftovers()).toEqual([]);
  await Promise.all([first.client.closed, second.client.closed]);
});

test("delete does not end a daemon that waits for another announced container", async () => {
  await using shim = createShimProcess();
  const podBundle = shim.makeBundle("pod", ["sleep"], pod);
  shim.makeBundle("app", ["sleep"], pod);
  const first = await shim.start({ id: "pod" });
  await runContainer(first.client, "pod", podBundle);
  const second = await shim.start({ id: "app" });

  await deleteOk(shim, "pod");

  const { daemon } = shim.record("app");
  expect(isAlive(daemon)).toBe(true);
  await deleteOk(shim, "app");
  expect(isAlive(daemon)).toBe(false);
  await Promise.all([first.client.closed, second.client.closed]);
});

test("delete ends a daemon that does not answer, when it is the container's own", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const { client } = await shim.start({ id: "a" });
  const { daemon } = shim.record("a");
  signalProcess(daemon, "SIGSTOP");

  await deleteOk(shim, "a");

  expect(isAlive(daemon)).toBe(false);
  expect(shim.leftovers()).toEqual([]);
  await client.closed;
});

test("delete ends a silent daemon with the last container of its group", async () => {
  await using shim = createShimProcess();
  for (const id of ["app", "app2"]) shim.makeBundle(id, ["sleep"], pod);
  const first = await shim.start({ id: "app" });
  const second = await shim.start({ id: "app2" });
  const { daemon } = shim.record("app");
  await deleteOk(shim, "app2");
  expect(isAlive(daemon)).toBe(true);
  signalProcess(daemon, "SIGSTOP");

  await deleteOk(shim, "app");

  expect(isAlive(daemon)).toBe(false);
  expect(shim.leftovers()).toEqual([]);
  await Promise.all([first.client.closed, second.client.closed]);
});

test("delete of the last container does not wait for a sandbox that closes slowly", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("app", ["hang-close"], pod);
  const { client } = await shim.start({ id: "app" });
  await runContainer(client, "app", bundle);
  const { daemon } = shim.record("app");

  await deleteOk(shim, "app");

  expect(isAlive(daemon)).toBe(false);
  expect(shim.leftovers()).toEqual([]);
  await client.closed;
});

test("delete of one of several does not wait for a process that does not die", async () => {
  await using shim = createShimProcess();
  const podBundle = shim.makeBundle("pod", ["sleep"], pod);
  const appBundle = shim.makeBundle("app", ["immortal"], pod);
  const first = await shim.start({ id: "pod" });
  const second = await shim.start({ id: "app" });
  await runContainer(first.client, "pod", podBundle);
  await runContainer(second.client, "app", appBundle);

  await deleteOk(shim, "app");

  expect(await first.client.call(service, taskMethods.state, { id: "pod" })).toMatchObject({ status: 2 });
  await deleteOk(shim, "pod");
  await Promise.all([first.client.closed, second.client.closed]);
});

test("delete fails, and ends nothing, when the silent daemon holds other containers", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("pod", ["sleep"], pod);
  shim.makeBundle("app", ["sleep"], pod);
  const { client } = await shim.start({ id: "app" });
  const { client: other } = await shim.start({ id: "pod" });
  await other[Symbol.asyncDispose]();
  const { daemon } = shim.record("app");
  signalProcess(daemon, "SIGSTOP");

  const outcome = await shim.run("delete", { id: "app" });

  expect(outcome.exitCode).toBe(1);
  expect(outcome.stderr).toContain("its daemon does not answer");
  expect(outcome.stdout).toHaveLength(0);
  expect(isAlive(daemon)).toBe(true);
  signalProcess(daemon, "SIGCONT");
  for (const id of ["app", "pod"]) await deleteOk(shim, id);
  expect(await ended(daemon)).toBe(true);
  await client.closed;
});

test("delete of something that never was", async () => {
  await using shim = createShimProcess();
  mkdirSync(shim.dir.join("bundles"));

  await deleteOk(shim, "never", shim.dir.path);

  expect(shim.leftovers()).toEqual([]);
});

test("delete takes away what a daemon has left that was killed while it wrote its record", async () => {
  await using shim = createShimProcess();
  mkdirSync(shim.dir.join("bundles"));
  const records = shim.dir.join("state/.shims");
  mkdirSync(records, { recursive: true });
  const torn = join(records, `${shim.namespace}+a.json.0123abcd`);
  const other = join(records, `${shim.namespace}+a.jsonb.json.0123abcd`);
  for (const path of [torn, other]) writeFileSync(path, '{"sandboxId":');

  await deleteOk(shim, "a", shim.dir.path);

  expect(readdirSync(records)).toEqual([basename(other)]);
});

test.runIf(process.getuid?.() === 0)("delete unmounts what is mounted on the root file system", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["sleep"]);
  for (let count = 0; count < 2; count++) await exec(["mount", "-t", "tmpfs", "none", `${bundle}/rootfs`]);

  await deleteOk(shim, "a");

  expect(mountsBelow(bundle)).toEqual([]);
  expect(existsSync(`${bundle}/rootfs`)).toBe(true);
});
