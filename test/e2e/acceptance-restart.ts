import { closeSync, constants, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { expect } from "vitest";
import { loadNative } from "../../src/base/native.ts";
import { start } from "../support/cli-run.ts";
import { type Containerd, taskState } from "../support/containerd.ts";
import { connectTasks, type TaskClient } from "./acceptance-client.ts";
import { daemonOf, makeBundle, outputOf } from "./acceptance-daemon.ts";
import { type Line, until } from "./acceptance-lines.ts";

const gapExitCode = 7;

/**
 * A task on a terminal whose client outlives containerd, as a kubelet's or Docker's does: created, not started. It is `cat`,
 * so each line that is typed is there twice, because a terminal echoes.
 */
async function createOnTerminal(containerd: Containerd, tasks: TaskClient, id: string) {
  const fifo = (name: string) => containerd.dir.join(`${id}-${name}`);
  const [stdin, stdout] = [fifo("in"), fifo("out")];
  for (const path of [stdin, stdout]) loadNative().makeFifo(path, 0o600);
  const reader = start(["cat", stdout], { timeoutMs: 600_000 });
  let text = "";
  reader.stdout.setEncoding("utf8");
  reader.stdout.on("data", (chunk: string) => (text += chunk));
  const input = openSync(stdin, constants.O_RDWR);
  const remove = async () => {
    await containerd.ctr(["task", "rm", "--force", id]);
    await containerd.ctr(["container", "rm", id]);
    closeSync(input);
    await reader[Symbol.asyncDispose]();
  };
  try {
    await tasks.create(id, ["cat"], { terminal: true, stdin, stdout });
  } catch (error) {
    await remove();
    throw error;
  }
  return {
    id,
    answers: async (line: string) => {
      writeSync(input, `${line}\n`);
      await until(`${id} answers "${line}"`, () => text.includes(`${line}\r\n${line}\r\n`));
    },
    [Symbol.asyncDispose]: remove,
  };
}

const statusOf = async (containerd: Containerd, id: string) => (await taskState(containerd, id))?.status;

async function restartLine(containerd: Containerd): Promise<void> {
  // Another try does not go on in the log of the one before.
  const log = containerd.dir.join(`${containerd.id("load")}.log`);
  const run = (name: string, flags: readonly string[], script: string) =>
    containerd.startTask(flags, containerd.id(name), "sh", "-c", script);
  using tasks = connectTasks(containerd);
  // It writes as fast as it can the whole time.
  await using load = await run(
    "load",
    ["--log-uri", `file://${log}`],
    "i=0; while :; do echo $i; i=$((i+1)); done",
  );
  await using tty = await createOnTerminal(containerd, tasks, containerd.id("tty"));
  await using created = await createOnTerminal(containerd, tasks, containerd.id("created"));
  await using paused = await run("paused", [], "sleep 3600");
  await using gap = await run("gap", [], `trap 'exit ${gapExitCode}' TERM; while :; do sleep 0.1; done`);
  await using stopped = await run("stopped", [], "exit 3");
  await tasks.start(tty.id);
  await tty.answers("before");
  await containerd.ctrOk(["task", "pause", paused.id]);
  await until("the short task has ended", async () => (await statusOf(containerd, stopped.id)) === "STOPPED");
  const all = [load.id, tty.id, created.id, paused.id, gap.id, stopped.id];
  const before = await Promise.all(all.map((id) => stateOf(containerd, id)));

  await containerd.kill();
  await endInGap(containerd, gap.id);
  const sizeInGap = statSync(log).size;
  await until("the load goes on in the gap", () => statSync(log).size > sizeInGap + 1000);
  await tty.answers("in the gap");
  const logStart = statSync(containerd.dir.join("containerd.log")).size;
  await containerd.restart();
  const containerdLog = () => readFileSync(containerd.dir.join("containerd.log"), "utf8").slice(logStart);

  const statuses = await Promise.all(all.map((id) => statusOf(containerd, id)));
  expect(statuses).toEqual(["RUNNING", "RUNNING", "CREATED", "PAUSED", "STOPPED", "STOPPED"]);
  const after = await Promise.all(all.map((id) => stateOf(containerd, id)));
  expect(after.map(({ io }) => io)).toEqual(before.map(({ io }) => io));
  expect(after.map(({ exitStatus }) => exitStatus)).toEqual([0, 0, 0, 0, gapExitCode, 3]);
  const isDelivered = () => /event forwarded.*\/tasks\/exit/.test(containerdLog());
  await until("the exit of the gap is delivered", isDelivered);
  await expectLogWorks(containerd, load.id, containerdLog);

  // Each goes on from where it was.
  await containerd.ctrOk(["task", "resume", paused.id]);
  expect(await statusOf(containerd, paused.id)).toBe("RUNNING");
  using again = connectTasks(containerd);
  await again.start(created.id);
  for (const terminal of [tty, created]) await terminal.answers("after it");
  await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", load.id]);
  await until("the load has ended", async () => (await statusOf(containerd, load.id)) === "STOPPED");
  expectCounted(readFileSync(log, "utf8"));
}

/** Ends a task while containerd is away. */
async function endInGap(containerd: Containerd, id: string): Promise<void> {
  await using daemon = await daemonOf(containerd, id);
  await daemon.call("kill", { id, signal: 15 });
  expect(await daemon.call("wait", { id })).toMatchObject({ exitStatus: gapExitCode });
}

async function stateOf(containerd: Containerd, id: string) {
  await using daemon = await daemonOf(containerd, id);
  const { bundle, stdin, stdout, stderr, terminal, pid, exitStatus } = await daemon.call("state", { id });
  return { io: { bundle, stdin, stdout, stderr, terminal, pid }, exitStatus };
}

/** A line that the daemon writes into its log FIFO shows in the log of the containerd that is there now. */
async function expectLogWorks(
  containerd: Containerd,
  hostId: string,
  containerdLog: () => string,
): Promise<void> {
  await using daemon = await daemonOf(containerd, hostId);
  const request = makeBundle(containerd, hostId, "logged", ["true"]);
  const options = { type_url: "caisson.test.Marker", value: Buffer.of() };
  await daemon.call("create", { ...request, options });
  await daemon.call("start", { id: "logged" });
  await daemon.call("wait", { id: "logged" });
  await daemon.call("delete", { id: "logged" });
  expect(outputOf(request)).toBe("");
  await until("the daemon's line is in containerd's log", () =>
    containerdLog().includes("caisson.test.Marker"),
  );
}

/** Every number from 0 on, none missing and none twice. The last line may be cut. */
function expectCounted(text: string): void {
  const lines = text.split("\n").slice(0, -1);
  const wrong = lines.findIndex((line, index) => line !== String(index));
  expect({ wrong, context: wrong === -1 ? [] : lines.slice(wrong - 1, wrong + 2) }).toEqual({
    wrong: -1,
    context: [],
  });
  expect(lines.length).toBeGreaterThan(1000);
}

/** The restart of containerd with tasks in every state. */
export const restartLines: readonly Line[] = [
  {
    name: "daemon restart with running, created, paused, stopped tasks, tty and not, under output load",
    timeoutMs: 300_000,
    run: restartLine,
  },
];
