import { expect } from "vitest";
import { loadNative } from "../../src/base/native.ts";
import { containerd as task } from "../../src/gen/containerd.js";
import { run } from "../support/cli-run.ts";
import type { Containerd } from "../support/containerd.ts";
import { type ContainerdEvent, watchEvents } from "../support/containerd-events.ts";
import { runModelContainer } from "../support/model-container.ts";
import { makeOutsideNetwork, plugHook } from "../support/outside-network.ts";
import { connectTasks } from "./acceptance-client.ts";
import { type Daemon, daemonOf, execSpec, makeBundle, outputOf } from "./acceptance-daemon.ts";
import { type Line, runsAll } from "./acceptance-lines.ts";

const { Status } = task.v1.types;

const isExit = (id: string) => (event: ContainerdEvent) =>
  event.topic === "/tasks/exit" && event.content["id"] === id;

async function codesLine(containerd: Containerd): Promise<void> {
  await using host = await containerd.startTask([], containerd.id("codes"), "sleep", "3600");
  await using daemon = await daemonOf(containerd, host.id);
  const exec = { id: host.id, execId: "e" };
  for (let round = 0; round < 2; round++) {
    expect(await daemon.code("exec", { ...exec, spec: execSpec(["sh", "-c", "exit 4"]) })).toBe("ok");
    expect(await daemon.code("exec", { ...exec, spec: execSpec(["true"]) })).toBe("already_exists");
    expect(await daemon.code("kill", { ...exec, signal: 9 })).toBe("failed_precondition");
    await daemon.call("start", exec);
    expect(await daemon.call("wait", exec)).toMatchObject({ exitStatus: 4 });
    expect(await daemon.code("kill", { ...exec, signal: 9 })).toBe("not_found");
    expect(await daemon.call("delete", exec)).toMatchObject({ exitStatus: 4 });
    expect(await daemon.code("delete", exec)).toBe("not_found");
  }

  const request = makeBundle(containerd, host.id, "short", ["true"]);
  await daemon.call("create", request);
  expect(await daemon.code("create", request)).toBe("already_exists");
  expect(await daemon.code("start", { id: "short" })).toBe("ok");
  await daemon.call("wait", { id: "short" });
  expect(await daemon.code("kill", { id: "short", signal: 9 })).toBe("not_found");
  expect(await daemon.code("kill", { id: "short", signal: 9, all: true })).toBe("not_found");
  expect(await daemon.code("start", { id: "short" })).not.toBe("ok");
  expect(await daemon.code("stats", { id: "short" })).toBe("ok");
  expect(await daemon.code("delete", { id: "short" })).toBe("ok");
  expect(await daemon.code("delete", { id: "short" })).toBe("not_found");
}

async function waitLine(containerd: Containerd): Promise<void> {
  await using host = await containerd.startTask([], containerd.id("waits"), "sleep", "3600");
  await using daemon = await daemonOf(containerd, host.id);
  // 3 MB: far more than every buffer on the way.
  const script =
    "read line </go; i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done; seq 1 400000; exit 9";
  const request = makeBundle(containerd, host.id, "many", ["sh", "-c", `mkfifo /go; ${script}`]);
  await daemon.call("create", request);
  const waits = Array.from({ length: 100 }, () => daemon.call("wait", { id: "many" }));
  await daemon.call("start", { id: "many" });
  await containerd.restart();
  await daemon.call("exec", { id: "many", execId: "go", spec: execSpec(["sh", "-c", "echo go >/go"]) });
  await daemon.call("start", { id: "many", execId: "go" });

  const exits = await Promise.all(waits);
  const output = outputOf(request);
  expect(new Set(exits.map(({ exitStatus }) => exitStatus))).toEqual(new Set([9]));
  expect(output.endsWith("\n400000\n")).toBe(true);
  expect(output.split("\n")).toHaveLength(430_001);
  expect(await daemon.call("state", { id: "many" })).toMatchObject({ status: Status.STOPPED, exitStatus: 9 });
  expect(await daemon.call("wait", { id: "many" })).toMatchObject({ exitStatus: 9 });
  await daemon.call("delete", { id: "many" });
}

async function eventsLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("events");
  await using events = await watchEvents(containerd);
  await using _task = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  await daemon.call("exec", { id, execId: "bad", spec: execSpec(["/no/such"]) });
  expect(await daemon.code("start", { id, execId: "bad" })).not.toBe("ok");
  expect(await daemon.call("delete", { id, execId: "bad" })).toMatchObject({ exitStatus: 0 });
  for (const execId of ["short", "long"]) {
    await daemon.call("exec", {
      id,
      execId,
      spec: execSpec(execId === "short" ? ["true"] : ["sleep", "3600"]),
    });
    await daemon.call("start", { id, execId });
  }
  await events.waitFor(isExit("short"));
  await daemon.call("pause", { id });
  await daemon.call("resume", { id });
  await daemon.call("kill", { id, signal: 9, all: false });
  await events.waitFor(isExit(id));
  await containerd.ctr(["task", "delete", id]);
  await events.waitFor(({ topic, content }) => topic === "/tasks/delete" && content["container_id"] === id);

  const said = events.events
    .filter(({ content }) => content["container_id"] === id)
    .map(({ topic, content }) => {
      const process = content["exec_id"] ?? content["id"];
      return `${topic.slice("/tasks/".length)} ${typeof process === "string" ? process : ""}`.trim();
    });
  // When the short one ends is its own affair, but never before it has started.
  const exitAt = said.indexOf("exit short");
  expect(exitAt).toBeGreaterThan(said.indexOf("exec-started short"));
  expect(said.toSpliced(exitAt, 1)).toEqual([
    "create",
    "start",
    "exec-added bad",
    "exec-added short",
    "exec-started short",
    "exec-added long",
    "exec-started long",
    "paused",
    "resumed",
    "exit long",
    `exit ${id}`,
    "delete",
  ]);
}

async function killedVmLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("vm");
  await using events = await watchEvents(containerd);
  await using running = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  await daemon.call("create", makeBundle(containerd, id, "second", ["sleep", "3600"]));
  await daemon.call("exec", { id, execId: "e", spec: execSpec(["sleep", "3600"]) });
  await daemon.call("start", { id, execId: "e" });
  const targets = [{ id }, { id, execId: "e" }, { id: "second" }];
  const waits = targets.map((target) => daemon.call("wait", target));
  process.kill(running.pid, "SIGKILL");
  const exit = await events.waitFor(isExit(id));

  for (const [index, target] of targets.entries()) {
    const { exitStatus } = await (waits[index] ?? Promise.reject(new Error("no wait")));
    expect(exitStatus).toBe(255);
    expect(await daemon.call("state", target)).toMatchObject({ status: Status.STOPPED, exitStatus });
  }
  expect(exit.content).toMatchObject({ exit_status: 255 });
  const exits = events.events.filter(
    ({ topic, content }) => topic === "/tasks/exit" && content["container_id"] === id,
  );
  expect(exits.map(({ content }) => content["id"])).toEqual(["e", id]);
  expect(await daemon.code("delete", { id, execId: "e" })).toBe("ok");
  expect(await daemon.code("delete", { id: "second" })).toBe("ok");
}

/**
 * Not through `ctr task exec`: it closes its end of the FIFO when the process has exited, before it has read what is in
 * there (`process.Delete` of containerd's client: Cancel comes before Wait), and so loses up to 64 KiB on a busy machine,
 * with runc just as well. A client that reads to the end of file, as CRI's does, shows what the shim delivers.
 */
async function outputLine(containerd: Containerd): Promise<void> {
  await using host = await containerd.startTask([], containerd.id("output"), "sleep", "3600");
  await using daemon = await daemonOf(containerd, host.id);
  const bytes = 7_000_000;
  // Without line ends, which a terminal would change.
  const spec = execSpec(["sh", "-c", `head -c ${bytes} /dev/zero | tr '\\0' x; exit 6`]);
  const rounds = runsAll ? 100 : 3;
  for (let round = 0; round < rounds; round++) {
    const stdout = containerd.dir.join(`big-${round}`);
    loadNative().makeFifo(stdout, 0o600);
    const counted = run(["wc", "-c", stdout]);
    const exec = { id: host.id, execId: `big-${round}` };
    await daemon.call("exec", { ...exec, spec, stdout, terminal: true });
    await daemon.call("start", exec);
    const { exitStatus } = await daemon.call("wait", exec);
    // As soon as can be: what is in the FIFO by now must stay there for the reader.
    await daemon.call("delete", exec);
    const length = Number.parseInt((await counted).stdout);
    expect({ round, exitStatus, length }).toEqual({ round, exitStatus: 6, length: bytes });
  }
  await expectBackgroundChildIsNoObstacle(containerd, daemon, host.id);
}

async function expectBackgroundChildIsNoObstacle(
  containerd: Containerd,
  daemon: Daemon,
  id: string,
): Promise<void> {
  const spec = execSpec(["sh", "-c", "echo parent; (sleep 3600; echo child) & exit 0"]);
  const exec = { id, execId: "holder" };
  const { stdout } = makeBundle(containerd, id, "holder-output", ["true"]);
  await daemon.call("exec", { ...exec, spec, stdout });
  await daemon.call("start", exec);
  expect(await daemon.call("wait", exec)).toMatchObject({ exitStatus: 0 });
  expect(outputOf({ stdout })).toBe("parent\n");
  expect(await daemon.code("delete", exec)).toBe("ok");
}

/** What Docker does, without Docker: the network comes when the pid is known. */
async function lateNetworkLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("late");
  using outside = makeOutsideNetwork(containerd.id("outside"));
  const ping = ["ping", "-c", "1", "-w", "20", outside.address];
  using tasks = connectTasks(containerd);
  await tasks.create(id, ["sleep", "3600"]);
  await using daemon = await daemonOf(containerd, id);
  const created = (await daemon.call("state", { id })) as { pid: number };
  outside.plug(created.pid);
  await tasks.start(id);
  const { stdout } = await containerd.ctrOk(["task", "exec", "--exec-id", "ping", id, ...ping]);
  expect(stdout).toContain("1 packets received");
  await containerd.ctrOk(["task", "kill", "--signal", "9", id]);
  await daemon.call("wait", { id });
  await containerd.ctrOk(["task", "delete", id]);
  await containerd.ctrOk(["container", "delete", id]);

  using hooked = makeOutsideNetwork(containerd.id("hooked"));
  const { output } = await runModelContainer({ command: ping, hooks: { prestart: [plugHook(hooked)] } });
  expect(output).toContain("1 packets received");
}

/** What a task and its execs say, in which order, and to the last byte. */
export const taskLines: readonly Line[] = [
  {
    name: "Kill after exit NotFound; Delete twice NotFound; exec id reuse AlreadyExists, allowed after Delete",
    run: codesLine,
  },
  { name: "Wait: many, late, across a daemon restart; resolves after output is flushed", run: waitLine },
  {
    name: "one exit event per process, init last, after start events; an exec that fails has none",
    run: eventsLine,
  },
  {
    name: "SIGKILL of the VM: every task and exec ends, Wait and State agree, Delete succeeds",
    run: killedVmLine,
  },
  {
    name: `${runsAll ? 100 : 3} execs of 7 MB tty output complete; exec with a background child holding stdout`,
    timeoutMs: 1_800_000,
    run: outputLine,
  },
  {
    name: "Docker ≥ 28 network between Create and Start, Docker ≤ 27 prestart hook",
    run: lateNetworkLine,
  },
];
