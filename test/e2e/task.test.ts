import { afterAll, beforeAll, expect, test } from "vitest";
import { awaitSize, startOnPty } from "../support/cli-pty.ts";
import { start } from "../support/cli-run.ts";
import { type Containerd, startContainerd, taskState } from "../support/containerd.ts";
import { watchEvents } from "../support/containerd-events.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

let containerd: Containerd;
beforeAll(async () => {
  containerd = await startContainerd();
});
afterAll(() => containerd[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => containerd.leakScope(), { cleanUp: () => containerd.removeAll() });

const startSleep = (name: string) => containerd.startTask([], containerd.id(name), "sleep", "3600");

/** Arguments of `ctr` that run one more process in a container. */
const execArgs = (id: string, flags: string[], ...command: string[]) => [
  "task",
  "exec",
  "--fifo-dir",
  containerd.dir.join("fifo"),
  "--exec-id",
  `exec-${execCount++}`,
  ...flags,
  id,
  ...command,
];
let execCount = 0;

test("a detached container runs until it is killed, and can be deleted then", async () => {
  const id = containerd.id("detached");
  await using events = await watchEvents(containerd);
  await using task = await containerd.startTask([], id, "sleep", "3600");
  expect(await taskState(containerd, id)).toEqual({ pid: task.pid, status: "RUNNING" });

  await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", id]);
  const exit = await events.waitFor(
    ({ topic, content }) => topic === "/tasks/exit" && content["container_id"] === id,
  );
  expect(exit.content).toMatchObject({ exit_status: 137, pid: task.pid });
  expect(await taskState(containerd, id)).toMatchObject({ status: "STOPPED" });

  await containerd.ctrOk(["task", "delete", id]);
  const gone = await events.waitFor(
    ({ topic, content }) => topic === "/tasks/delete" && content["container_id"] === id,
  );
  expect(gone.content).toMatchObject({ exit_status: 137 });
  expect(await taskState(containerd, id)).toBeUndefined();
  await containerd.ctrOk(["container", "rm", id]);
  expect(events.topicsOf(id)).toEqual(["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
});

test("a running task is not deleted without force", async () => {
  await using task = await startSleep("running");
  const result = await containerd.ctr(["task", "delete", task.id]);

  expect(result.exitCode).not.toBe(0);
  expect(await taskState(containerd, task.id)).toMatchObject({ status: "RUNNING" });
});

test("an id that is in use is refused, and its container goes on", async () => {
  await using task = await startSleep("twice");
  const second = await containerd.ctr(containerd.runArgs(["--rm"], task.id, "true"));

  expect(second.exitCode).not.toBe(0);
  expect(second.stderr).toContain("already exists");
  expect(await taskState(containerd, task.id)).toMatchObject({ status: "RUNNING" });
});

test("the container's init gets the signals that are sent", async () => {
  const id = containerd.id("trap");
  await using events = await watchEvents(containerd);
  await using _task = await containerd.startTask(
    [],
    id,
    "sh",
    "-c",
    "trap 'exit 42' TERM; touch /ready; while :; do sleep 0.1; done",
  );
  await containerd.ctrOk(execArgs(id, [], "sh", "-c", "until [ -e /ready ]; do sleep 0.1; done"));

  await containerd.ctrOk(["task", "kill", "--signal", "SIGTERM", id]);
  const exit = await events.waitFor(
    ({ topic, content }) => topic === "/tasks/exit" && content["container_id"] === id && content["id"] === id,
  );

  expect(exit.content).toMatchObject({ exit_status: 42 });
});

test("kill of a task that has exited fails and says why", async () => {
  const id = containerd.id("over");
  await using events = await watchEvents(containerd);
  await using _task = await containerd.startTask([], id, "true");
  await events.waitFor(({ topic, content }) => topic === "/tasks/exit" && content["container_id"] === id);
  const result = await containerd.ctr(["task", "kill", "--signal", "SIGKILL", id]);

  expect(result.exitCode).not.toBe(0);
  expect(result.stderr).toMatch(/not found|already finished|has exited/);
});

test("exec runs a process in the container: output, exit code, environment, directory", async () => {
  await using task = await startSleep("exec");
  const script = "echo out; echo err >&2; pwd; ps | grep -c 'sleep 3600' >/dev/null && exit 7";
  const result = await containerd.ctr(execArgs(task.id, ["--cwd", "/tmp"], "sh", "-c", script));

  expect(result).toMatchObject({ exitCode: 7, stdout: "out\n/tmp\n", stderr: "err\n" });
});

test("exec: stdin arrives and ends", async () => {
  await using task = await startSleep("exec-stdin");
  await using exec = start(
    containerd.ctrArgv(...execArgs(task.id, [], "sh", "-c", "read line; echo got $line; wc -c; exit 3")),
  );
  let output = "";
  exec.stdout.setEncoding("utf8");
  exec.stderr.resume();
  const answered = new Promise<void>((resolve) =>
    exec.stdout.on("data", (text: string) => (output += text).includes("got") && resolve()),
  );
  exec.stdin.write("one\n");
  await answered;
  exec.stdin.end("12345");

  expect(await exec.ended).toMatchObject({ exitCode: 3 });
  expect(output).toBe("got one\n5\n");
});

test("exec -t has a terminal of the window's size", async () => {
  await using task = await startSleep("exec-tty");
  const argv = containerd.ctrArgv(...execArgs(task.id, ["--tty"], "sh", "-c"));
  await using pty = startOnPty(`${argv.join(" ")} '${awaitSize("20 90")}; tty; exit 5'`, {
    columns: 90,
    rows: 20,
  });

  expect(await pty.exitCode).toBe(5);
  expect(pty.output).toMatch(/\/dev\/pts\/\d+\r*\n/);
});

test("exec of a missing command fails and names it; the container goes on", async () => {
  await using task = await startSleep("exec-missing");
  const result = await containerd.ctr(execArgs(task.id, [], "/no/such/command"));

  expect(result.exitCode).not.toBe(0);
  expect(result.stderr).toContain("/no/such/command");
  expect(await containerd.ctr(execArgs(task.id, [], "echo", "works"))).toMatchObject({
    exitCode: 0,
    stdout: "works\n",
  });
});

test("execs at the same time do not disturb each other", async () => {
  await using task = await startSleep("execs");
  const numbers = [0, 1, 2, 3, 4, 5];
  const results = await Promise.all(
    numbers.map((number) => containerd.ctr(execArgs(task.id, [], "sh", "-c", `seq 1 2000; exit ${number}`))),
  );

  const expected = Array.from({ length: 2000 }, (_, index) => `${index + 1}\n`).join("");
  expect(results.map(({ exitCode, stdout }) => ({ exitCode, isExact: stdout === expected }))).toEqual(
    numbers.map((exitCode) => ({ exitCode, isExact: true })),
  );
});

test("when init ends its execs end too, and its own exit event is the last", async () => {
  const id = containerd.id("last");
  await using events = await watchEvents(containerd);
  await using _task = await containerd.startTask([], id, "sleep", "3600");
  const exec = containerd.ctr(execArgs(id, [], "sleep", "3600"));
  await events.waitFor(
    ({ topic, content }) => topic === "/tasks/exec-started" && content["container_id"] === id,
  );

  await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", id]);
  await events.waitFor(({ topic, content }) => topic === "/tasks/exit" && content["id"] === id);

  expect(await exec).toMatchObject({ exitCode: 137 });
  const exits = events.events.filter(
    ({ topic, content }) => topic === "/tasks/exit" && content["container_id"] === id,
  );
  expect(exits).toHaveLength(2);
  expect(exits[1]?.content).toMatchObject({ id });
});

test.for([2, 4])("%i sandboxes at the same time", async (count) => {
  const names = Array.from({ length: count }, (_, index) => `parallel-${count}-${index}`);
  const results = await Promise.all(
    names.map((name) =>
      containerd.ctr(
        containerd.runArgs(
          ["--rm"],
          containerd.id(name),
          "sh",
          "-c",
          `hostname; echo ${name}; sleep 1; seq 1 20000 | wc -c`,
        ),
      ),
    ),
  );

  expect(results.map((result) => result.stderr)).toEqual(names.map(() => ""));
  expect(results.map((result) => result.stdout.split("\n").slice(1).join(" "))).toEqual(
    names.map((name) => `${name} 108894 `),
  );
});
