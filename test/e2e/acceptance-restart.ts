import { openSync, readFileSync, statSync, closeSync, constants } from "node:fs";
import { expect } from "vitest";
import { loadNative } from "../../src/base/native.ts";
import { containerd as task } from "../../src/gen/containerd.js";
import { start } from "../support/cli-run.ts";
import { type Containerd, taskState } from "../support/containerd.ts";
import { connectTasks } from "./acceptance-client.ts";
import { daemonOf, makeBundle, outputOf } from "./acceptance-daemon.ts";
import { type Line, until } from "./acceptance-lines.ts";

const { Status } = task.v1.types;
const gapExitCode = 7;

/** Reads a FIFO into memory, as a client that outlives containerd does. */
function readFifo(path: string) {
  const reader = start(["cat", path], { timeoutMs: 600_000 });
  let text = "";
  reader.stdout.setEncoding("utf8");
  reader.stdout.on("data", (chunk: string) => (text += chunk));
  return { text: () => text, [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose]() };
}

async function restartLine(containerd: Containerd): Promise<void> {
  const id = (name: string) => containerd.id(name);
  const log = containerd.dir.join("load.log");
  const counting = "i=0; while :; do echo $i; i=$((i+1)); done";
  const fifos = Object.fromEntries(
    ["in", "out"].map((name) => [name, containerd.dir.join(`created-${name}`)]),
  ) as { in: string; out: string };
  for (const path of Object.values(fifos)) loadNative().makeFifo(path, 0o600);
  using tasks = connectTasks(containerd);
  await using created = readFifo(fifos.out);
  const stdin = openSync(fifos.in, constants.O_RDWR);

  // Under load: it writes as fast as it can the whole time. A terminal: it has one, and nobody attached.
  await using load = await containerd.startTask(
    ["--log-uri", `file://${log}`],
    id("load"),
    ...["sh", "-c", counting],
  );
  await using tty = await containerd.startTask(["--tty"], id("tty"), "sleep", "3600");
  await using paused = await containerd.startTask([], id("paused"), "sleep", "3600");
  await using gap = await containerd.startTask(
    [],
    id("gap"),
    "sh",
    "-c",
    `trap 'exit ${gapExitCode}' TERM; while :; do sleep 0.1; done`,
  );
  await using stopped = await containerd.startTask([], id("stopped"), "sh", "-c", "exit 3");
  const created1 = id("created");
  await tasks.create(created1, ["sh", "-c", "tty; read line; echo got $line"], {
    terminal: true,
    stdin: fifos.in,
    stdout: fifos.out,
  });
  await containerd.ctrOk(["task", "pause", paused.id]);
  const all = [load.id, tty.id, paused.id, gap.id, stopped.id, created1];
  await until(
    "the short task has ended",
    async () => (await taskState(containerd, stopped.id))?.status === "STOPPED",
  );
  const before = await Promise.all(all.map((taskId) => stateOf(containerd, taskId)));

  await containerd.kill();
  {
    await using daemon = await daemonOf(containerd, gap.id);
    await daemon.call("kill", { id: gap.id, signal: 15 });
    expect(await daemon.call("wait", { id: gap.id })).toMatchObject({ exitStatus: gapExitCode });
  }
  const sizeInGap = statSync(log).size;
  await until("the load goes on in the gap", () => statSync(log).size > sizeInGap + 1000);
  const logStart = statSync(containerd.dir.join("containerd.log")).size;
  await containerd.restart();
  const containerdLog = () => readFileSync(containerd.dir.join("containerd.log"), "utf8").slice(logStart);

  expect(await Promise.all(all.map(async (taskId) => (await taskState(containerd, taskId))?.status))).toEqual(
    ["RUNNING", "RUNNING", "PAUSED", "STOPPED", "STOPPED", "CREATED"],
  );
  const after = await Promise.all(all.map((taskId) => stateOf(containerd, taskId)));
  expect(after.map(({ io }) => io)).toEqual(before.map(({ io }) => io));
  expect(after[3]).toMatchObject({ exitStatus: gapExitCode });
  expect(after[4]).toMatchObject({ exitStatus: 3 });

  await until("the exit of the gap is delivered", () =>
    /event forwarded.*\/tasks\/exit/.test(containerdLog()),
  );
  await expectLogWorks(containerd, load.id, containerdLog);

  await containerd.ctrOk(["task", "resume", paused.id]);
  expect(await taskState(containerd, paused.id)).toMatchObject({ status: "RUNNING" });
  // A terminal from before the restart, and one made before and used after.
  await containerd.ctrOk(execArgs(containerd, tty.id, "true"));
  using again = connectTasks(containerd);
  await again.start(created1);
  await until("the terminal is there", () => created.text().includes("/dev/pts/"));
  start(["sh", "-c", `echo hello >'${fifos.in}'`]);
  await until("its input arrives", () => created.text().includes("got hello"));
  await until("it has ended", async () => (await taskState(containerd, created1))?.status === "STOPPED");
  closeSync(stdin);
  await containerd.ctrOk(["task", "delete", created1]);
  await containerd.ctrOk(["container", "rm", created1]);

  await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", load.id]);
  await until("the load has ended", async () => (await taskState(containerd, load.id))?.status === "STOPPED");
  expectCounted(readFileSync(log, "utf8"));
}

async function stateOf(containerd: Containerd, id: string) {
  await using daemon = await daemonOf(containerd, id);
  const { bundle, stdin, stdout, stderr, terminal, pid, exitStatus } = await daemon.call("state", { id });
  return { io: { bundle, stdin, stdout, stderr, terminal, pid }, exitStatus };
}

function execArgs(containerd: Containerd, id: string, ...command: string[]): string[] {
  return ["task", "exec", "--exec-id", "after", "--fifo-dir", containerd.dir.join("fifo"), id, ...command];
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
