import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isAlive, identify } from "../../src/base/processes.ts";
import { run as runCommand } from "../support/cli-run.ts";
import { buildPath } from "../support/cli-build.ts";
import { type Containerd, isCaisson, startContainerd } from "../support/containerd.ts";
import { watchEvents } from "../support/containerd-events.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { makeOutsideNetwork } from "../support/outside-network.ts";
import { cameFromPool, startPool, waiting } from "../support/pool.ts";

const outsideName = `caisson-pool-${process.pid}`;
let containerd: Containerd;
beforeAll(async () => {
  containerd = await startContainerd();
  // The keeper makes directories that stay, as the shim does.
  await using pool = startPool(containerd, 1);
  await pool.ready(1);
});
afterAll(() => containerd[Symbol.asyncDispose]());
checkLeaksAroundEachTest(
  () => {
    const scope = containerd.leakScope();
    return { ...scope, marks: [...scope.marks, outsideName] };
  },
  { cleanUp: () => containerd.removeAll() },
);

const it = test.skipIf(!isCaisson);

const exec = async (id: string, ...command: string[]) => {
  const execId = `e${Math.random().toString(36).slice(2)}`;
  return await containerd.ctrOk(["task", "exec", "--exec-id", execId, id, ...command]);
};

it("a sandbox with a VM of the pool is as any other, and goes without a trace", async () => {
  await using stream = await watchEvents(containerd);
  await using pool = startPool(containerd, 1);
  await pool.ready(1);
  const id = containerd.id("warm");
  await using task = await containerd.startTask(
    ["--hostname", "pooled", "--cpu-period", "100000", "--cpu-quota", "50000"],
    id,
    "sleep",
    "1000",
  );

  expect(await cameFromPool(containerd, id)).toBe(true);
  expect((await exec(id, "hostname")).stdout).toBe("pooled\n");
  // Periods are counted where there is a limit only.
  expect((await containerd.ctrOk(["task", "metrics", "--format", "json", id])).stdout).toMatch(
    /"periods": [1-9]/,
  );
  expect(Math.abs(Number((await exec(id, "date", "+%s")).stdout) - Date.now() / 1000)).toBeLessThan(10);
  expect((await containerd.ctrOk(["task", "ps", id])).stdout).toContain(String(task.pid));
  expect(readFileSync(`/proc/${task.pid}/cgroup`, "utf8")).toContain(`/${containerd.namespace}/${id}`);
  await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", id]);
  await stream.waitFor(
    ({ topic, content }) =>
      topic === "/tasks/exit" && content["container_id"] === id && content["exit_status"] === 137,
  );
  expect(stream.topicsOf(id).filter((topic) => /create|\/start|delete/.test(topic))).toEqual([
    "/tasks/create",
    "/tasks/start",
  ]);
});

it("a sandbox of another size boots its own VM, and the one of the pool goes on waiting", async () => {
  await using pool = startPool(containerd, 1);
  const names = await pool.ready(1);
  const id = containerd.id("size");
  await using _task = await containerd.startTask(["--memory-limit", "33554432"], id, "sleep", "1000");

  expect(await cameFromPool(containerd, id)).toBe(false);
  expect(waiting(containerd)).toEqual(names);
});

it("what was taken outlives the pool, and what waits does not", async () => {
  const pool = startPool(containerd, 2);
  try {
    const names = await pool.ready(2);
    const daemons = names.map((name) => identify(pool.daemonPid(name)));
    await using task = await containerd.startTask([], containerd.id("outlives"), "sleep", "1000");
    await pool.kill();
    await becomes(() => waiting(containerd).length === 0);
    await becomes(() => !existsSync(pooled()) || readdirSync(pooled()).length === 0);

    await becomes(() => daemons.filter((daemon) => daemon !== undefined && isAlive(daemon)).length === 1);

    expect((await exec(task.id, "echo", "lives")).stdout).toBe("lives\n");
  } finally {
    await pool[Symbol.asyncDispose]();
  }
});

it("a daemon that dies while it waits leaves nothing, and another one takes its place", async () => {
  await using pool = startPool(containerd, 1);
  const [name = ""] = await pool.ready(1);
  process.kill(pool.daemonPid(name), "SIGKILL");
  await pool.ready(0);
  const [next] = await pool.ready(1);

  expect(next).not.toBe(name);
  expect(readdirSync(pooled())).toEqual([next]);
});

it("a daemon that dies in its rehearsal leaves nothing, and another one takes its place", async () => {
  await using pool = startPool(containerd, 1);
  let name = "";
  await becomes(() => {
    const [suffix, names] = ["-rehearsal", existsSync(pooled()) ? readdirSync(pooled()) : []];
    name = names.find((entry) => entry.endsWith(suffix))?.slice(0, -suffix.length) ?? "";
    return name !== "";
  });
  process.kill(pool.daemonPid(name), "SIGKILL");
  const [next] = await pool.ready(1);

  expect(next).not.toBe(name);
  expect(readdirSync(pooled())).toEqual([next]);
});

it("what a keeper and its daemons have left that were killed, the next keeper removes", async () => {
  const killed = startPool(containerd, 1);
  const [name = ""] = await killed.ready(1);
  const daemon = killed.daemonPid(name);
  process.kill(daemon, "SIGSTOP");
  await killed.kill();
  process.kill(daemon, "SIGKILL");
  await killed[Symbol.asyncDispose]();
  await using pool = startPool(containerd, 1);
  const [next] = await pool.ready(1);

  expect(waiting(containerd)).toEqual([next]);
  expect(readdirSync(pooled())).toEqual([next]);
});

it("of two starts for one VM one takes it, and the other boots its own", async () => {
  await using pool = startPool(containerd, 1);
  await pool.ready(1);
  await using tasks = new AsyncDisposableStack();
  const started = await Promise.all(
    ["one", "two"].map((name) => containerd.startTask([], containerd.id(name), "sleep", "1000")),
  );
  for (const task of started) tasks.use(task);
  const origins = await Promise.all(started.map(({ id }) => cameFromPool(containerd, id)));

  expect(origins.filter((isPool) => isPool)).toHaveLength(1);
});

it("the network of a namespace reaches the guest of the pool", async () => {
  using outside = makeOutsideNetwork(outsideName);
  const inside = spawn("unshare", ["--net", "sleep", "1000"]);
  try {
    const namespace = `/proc/${inside.pid}/ns/net`;
    await becomes(
      async () =>
        (await runCommand(["readlink", namespace])).stdout !==
        (await runCommand(["readlink", "/proc/self/ns/net"])).stdout,
    );
    outside.plug(inside.pid ?? 0);
    await using pool = startPool(containerd, 1);
    await pool.ready(1);
    const flags = ["--with-ns", `network:${namespace}`];
    await using task = await containerd.startTask(flags, containerd.id("network"), "sleep", "1000");

    expect(await cameFromPool(containerd, task.id)).toBe(true);
    expect((await exec(task.id, "ip", "-o", "-4", "addr")).stdout).toContain("10.91.0.2/24");
    expect((await exec(task.id, "ping", "-c", "1", "-w", "20", outside.address)).stdout).toContain(
      "1 packets received",
    );
  } finally {
    inside.kill("SIGKILL");
  }
});

it("without pool_size there is no pool", async () => {
  const result = await runCommand([buildPath("bin/containerd-shim-caisson-v2"), "pool"], {
    env: { CAISSON_CONFIG: containerd.dir.join("caisson.toml") },
  });

  expect(result).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("pool_size is 0") as string });
});

/** Directory of the VMs that have no sandbox. */
function pooled(): string {
  return containerd.dir.join("run", ".pool");
}

/** Waits until it is so. */
async function becomes(isSo: () => boolean | Promise<boolean>): Promise<void> {
  await expect.poll(isSo, { timeout: 30_000, interval: 10 }).toBe(true);
}
