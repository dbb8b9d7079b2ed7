import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isAlive } from "../../src/base/processes.ts";
import { readRecord, type ShimRecord } from "../../src/shim/record.ts";
import { testAll } from "../support/cli-level.ts";
import { type Containerd, isCaisson, startContainerd, taskState } from "../support/containerd.ts";
import { watchEvents } from "../support/containerd-events.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

let containerd: Containerd;
let settings: Disposable;
beforeAll(async () => {
  containerd = await startContainerd();
  settings = containerd.configure('daemon = "node"');
  // The directory of the sockets stays.
  await containerd.ctrOk(containerd.runArgs(["--rm"], containerd.id("before"), "true"));
});
afterAll(async () => {
  settings[Symbol.dispose]();
  await containerd[Symbol.asyncDispose]();
});
checkLeaksAroundEachTest(() => containerd.leakScope(), { cleanUp: () => containerd.removeAll() });

const startSleep = (name: string) => containerd.startTask([], containerd.id(name), "sleep", "3600");

async function recordOf(id: string): Promise<ShimRecord> {
  const record = await readRecord(containerd.dir.join("run"), containerd.namespace, id);
  if (record === undefined) throw new Error(`There is no record of "${id}"`);
  return record;
}

const echo = async (id: string) =>
  (
    await containerd.ctrOk([
      "task",
      "exec",
      "--exec-id",
      `e${Math.random().toString(36).slice(2)}`,
      id,
      "echo",
      id,
    ])
  ).stdout;

describe.skipIf(!isCaisson)("one daemon for many sandboxes (needs io.containerd.caisson.v2)", () => {
  test("SIGKILL of the daemon: each task ends with 137, and nothing is left", async () => {
    const ids = [containerd.id("one"), containerd.id("two")];
    await using events = await watchEvents(containerd);
    await using _one = await startSleep("one");
    await using _two = await startSleep("two");
    const [one, two] = await Promise.all(ids.map(recordOf));
    expect(one?.daemon).toEqual(two?.daemon);
    expect(await Promise.all(ids.map(echo))).toEqual(ids.map((id) => `${id}\n`));
    // Both run in VMs of their own, of users of their own.
    expect(userOf(_one.pid)).not.toBe(userOf(_two.pid));

    process.kill(one?.daemon.pid ?? 0, "SIGKILL");
    for (const id of ids) {
      const exit = await events.waitFor(
        ({ topic, content }) => topic === "/tasks/exit" && content["id"] === id,
      );
      expect(exit.content).toMatchObject({ exit_status: 137 });
      await events.waitFor(
        ({ topic, content }) => topic === "/tasks/delete" && content["container_id"] === id,
      );
      expect(await taskState(containerd, id)).toBeUndefined();
      await containerd.ctrOk(["container", "rm", id]);
    }
  });

  test("the end of one sandbox, in whatever way, is nobody else's", async () => {
    const id = containerd.id("stays");
    await using _task = await startSleep("stays");
    const { daemon } = await recordOf(id);

    const run = await containerd.ctr(containerd.runArgs(["--rm"], containerd.id("short"), "echo", "works"));
    expect(run).toMatchObject({ exitCode: 0, stdout: "works\n" });
    {
      await using lost = await startSleep("lost");
      expect((await recordOf(lost.id)).daemon).toEqual(daemon);
      process.kill(lost.pid, "SIGKILL");
      await containerd.ctr(["task", "delete", lost.id]);
    }

    expect(await echo(id)).toBe(`${id}\n`);
    expect(isAlive(daemon)).toBe(true);
  });

  testAll("sandboxes outlive a SIGKILL of containerd, and more can come", async () => {
    const ids = ["first", "second", "third"].map((name) => containerd.id(name));
    await using _first = await startSleep("first");
    await using _second = await startSleep("second");
    await containerd.kill();
    await containerd.restart();
    await using _third = await startSleep("third");

    const records = await Promise.all(ids.map(recordOf));
    expect(new Set(records.map(({ daemon }) => daemon.pid)).size).toBe(1);
    expect(await Promise.all(ids.map(echo))).toEqual(ids.map((id) => `${id}\n`));
  });
});

function userOf(pid: number): string | undefined {
  return /^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
}
