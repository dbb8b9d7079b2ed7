import { expect } from "vitest";
import { containerd as task } from "../../src/gen/containerd.js";
import { io } from "../../src/gen/cgroups.js";
import { toBigInt } from "../../src/gen/int64.ts";
import { type Containerd, taskState } from "../support/containerd.ts";
import { watchEvents } from "../support/containerd-events.ts";
import { type Daemon, daemonOf, execSpec, makeBundle, outputOf } from "./acceptance-daemon.ts";
import { type Line, until } from "./acceptance-lines.ts";

const { Status } = task.v1.types;
const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
const mebibyte = 1024 ** 2;

/** What containerd's collectors read of the statistics, whichever version the host's cgroups have. */
async function statsOf(daemon: Daemon, id: string) {
  const { stats } = await daemon.call("stats", { id });
  const value = stats?.value ?? Buffer.of();
  if (stats?.type_url === "io.containerd.cgroups.v2.Metrics") {
    const { cpu, memory, pids, memoryEvents } = io.containerd.cgroups.v2.Metrics.decode(value);
    return {
      cpuMicros: toBigInt(cpu?.usageUsec),
      memory: toBigInt(memory?.usage),
      limit: toBigInt(memory?.usageLimit),
      pids: toBigInt(pids?.current),
      pidsLimit: toBigInt(pids?.limit),
      oomKills: toBigInt(memoryEvents?.oomKill),
    };
  }
  const { cpu, memory, pids, memoryOomControl } = io.containerd.cgroups.v1.Metrics.decode(value);
  return {
    cpuMicros: toBigInt(cpu?.usage?.total) / 1000n,
    memory: toBigInt(memory?.usage?.usage),
    limit: toBigInt(memory?.usage?.limit),
    pids: toBigInt(pids?.current),
    pidsLimit: toBigInt(pids?.limit),
    oomKills: toBigInt(memoryOomControl?.oomKill),
  };
}

/** Runs an exec to its end. */
async function runExec(
  daemon: Daemon,
  request: Parameters<Daemon["call"]>[1] & { id: string; execId: string },
) {
  const { id, execId } = request;
  await daemon.call("exec", request as never);
  await daemon.call("start", { id, execId });
  const { exitStatus } = await daemon.call("wait", { id, execId });
  await daemon.call("delete", { id, execId });
  return exitStatus;
}

async function pauseLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("pause");
  await using host = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  const script = "trap 'exit 5' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";
  const request = makeBundle(containerd, id, "counter", ["sh", "-c", script]);
  await daemon.call("create", request);
  expect(await daemon.code("pause", { id: "counter" })).toBe("failed_precondition");
  await daemon.call("start", { id: "counter" });
  await daemon.call("exec", { id: "counter", execId: "e", spec: execSpec(["sleep", "3600"]) });
  await daemon.call("start", { id: "counter", execId: "e" });
  await until("it counts", () => outputOf(request).length > 20);

  await daemon.call("pause", { id: "counter" });
  expect(await daemon.call("state", { id: "counter" })).toMatchObject({ status: Status.PAUSED });
  expect(await daemon.call("state", { id: "counter", execId: "e" })).toMatchObject({ status: Status.PAUSED });
  expect(await daemon.code("pause", { id: "counter" })).toBe("failed_precondition");
  expect(await daemon.code("exec", { id: "counter", execId: "f", spec: execSpec(["true"]) })).toBe(
    "failed_precondition",
  );
  expect(await daemon.code("stats", { id: "counter" })).toBe("ok");
  // What was on its way when it stopped has arrived by then.
  await new Promise((resolve) => setTimeout(resolve, 500));
  const frozen = outputOf(request).length;
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(outputOf(request)).toHaveLength(frozen);
  await daemon.call("resume", { id: "counter" });
  await until("it counts again", () => outputOf(request).length > frozen);

  // A signal to a paused container is delivered when it goes on.
  await daemon.call("pause", { id: "counter" });
  await daemon.call("kill", { id: "counter", signal: 15 });
  await daemon.call("resume", { id: "counter" });
  expect(await daemon.call("wait", { id: "counter" })).toMatchObject({ exitStatus: 5 });
  expect(await daemon.code("resume", { id: "counter" })).toBe("failed_precondition");
  await daemon.call("delete", { id: "counter" });

  // SIGKILL ends a paused one.
  await containerd.ctrOk(["task", "pause", host.id]);
  expect(await taskState(containerd, id)).toMatchObject({ status: "PAUSED" });
  await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", id]);
  expect(await daemon.call("wait", { id })).toMatchObject({ exitStatus: 137 });
}

async function statsLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("stats");
  await using _host = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  const before = await statsOf(daemon, id);
  expect(
    await runExec(daemon, {
      id,
      execId: "work",
      spec: execSpec(["sh", "-c", "seq 1 20000 >/dev/null"]),
    } as never),
  ).toBe(0);
  const after = await statsOf(daemon, id);
  expect(after.cpuMicros).toBeGreaterThan(before.cpuMicros);
  expect(after.memory).toBeGreaterThan(0n);
  expect(after.pids).toBe(1n);
  const metrics = await containerd.ctrOk(["task", "metrics", id]);
  expect(metrics.stdout).toContain(id);

  const update = (resources: object) =>
    daemon.code("update", {
      id,
      resources: { type_url: resourcesType, value: Buffer.from(JSON.stringify(resources)) },
    });
  expect(await update({ memory: { limit: 64 * mebibyte }, pids: { limit: 20 } })).toBe("ok");
  expect(await statsOf(daemon, id)).toMatchObject({ limit: BigInt(64 * mebibyte), pidsLimit: 20n });
  expect(await update({ memory: { limit: 1024 ** 4 } })).toBe("resource_exhausted");
  expect(await update({ memory: { limit: 4096 } })).toBe("resource_exhausted");
  expect(await statsOf(daemon, id)).toMatchObject({ limit: BigInt(64 * mebibyte) });
  expect(await daemon.code("update", { id, resources: { type_url: "x.Y", value: Buffer.from("{}") } })).toBe(
    "invalid_argument",
  );
}

async function oomLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("oom");
  await using events = await watchEvents(containerd);
  await using _task = await containerd.startTask(
    ["--memory-limit", String(32 * mebibyte)],
    id,
    "sh",
    "-c",
    "x=0123456789abcdef; while :; do x=$x$x; done",
  );
  const exit = await events.waitFor(({ topic, content }) => topic === "/tasks/exit" && content["id"] === id);
  expect(exit.content).toMatchObject({ exit_status: 137 });
  expect(events.topicsOf(id)).toContain("/tasks/oom");
  await using daemon = await daemonOf(containerd, id);
  // By this a kubelet knows why it has ended.
  expect((await statsOf(daemon, id)).oomKills).toBeGreaterThan(0n);
}

async function pidsLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("pids");
  await using host = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  await daemon.call("exec", { id, execId: "an-exec", spec: execSpec(["sleep", "3600"]) });
  await daemon.call("start", { id, execId: "an-exec" });
  const { stdout } = await containerd.ctrOk(["task", "ps", id]);
  const rows = stdout.trim().split("\n").slice(1);

  expect(rows.map((row) => Number(row.split(/\s+/)[0]))).toEqual([host.pid, host.pid]);
  expect(rows[1]).toContain("an-exec");
}

async function killLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("kill");
  await using _host = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  expect(await daemon.code("kill", { id, signal: 0 })).toBe("invalid_argument");
  expect(await daemon.code("kill", { id, signal: 65 })).toBe("invalid_argument");
  const script = "trap 'exit 44' 40; echo ready; while :; do sleep 0.05; done";
  const request = makeBundle(containerd, id, "real-time", ["sh", "-c", script]);
  await daemon.call("create", request);
  await daemon.call("start", { id: "real-time" });
  await until("it is ready", () => outputOf(request) !== "");
  await daemon.call("kill", { id: "real-time", signal: 40 });
  expect(await daemon.call("wait", { id: "real-time" })).toMatchObject({ exitStatus: 44 });
  await daemon.call("delete", { id: "real-time" });

  // `all` reaches the execs, and a SIGKILL of init everything.
  await daemon.call(
    "create",
    makeBundle(containerd, id, "many", ["sh", "-c", "trap : USR1; while :; do sleep 0.05; done"]),
  );
  await daemon.call("start", { id: "many" });
  for (const execId of ["a", "b"]) {
    await daemon.call("exec", { id: "many", execId, spec: execSpec(["sleep", "3600"]) });
    await daemon.call("start", { id: "many", execId });
  }
  await daemon.call("kill", { id: "many", execId: "a", signal: 10 });
  expect(await daemon.call("wait", { id: "many", execId: "a" })).toMatchObject({ exitStatus: 138 });
  await daemon.call("kill", { id: "many", signal: 10, all: true });
  expect(await daemon.call("wait", { id: "many", execId: "b" })).toMatchObject({ exitStatus: 138 });
  expect(await daemon.call("state", { id: "many" })).toMatchObject({ status: Status.RUNNING });
  await daemon.call("kill", { id: "many", signal: 9 });
  expect(await daemon.call("wait", { id: "many" })).toMatchObject({ exitStatus: 137 });
  await daemon.call("delete", { id: "many" });
}

async function execLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("exec");
  await using _host = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  const stdout = makeBundle(containerd, id, "exec-output", ["true"]).stdout;
  const script = [
    "pwd; umask; id -u; id -g; id -G; ulimit -n; echo $GREETING",
    "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status",
  ].join("; ");
  const spec = execSpec(["sh", "-c", script], {
    cwd: "/tmp",
    env: ["PATH=/bin:/usr/bin", "GREETING=hello world"],
    user: { uid: 1000, gid: 1001, additionalGids: [7, 8], umask: 0o27 },
    rlimits: [{ type: "RLIMIT_NOFILE", soft: 123, hard: 456 }],
    capabilities: { bounding: ["CAP_CHOWN"], effective: [], permitted: [], inheritable: [], ambient: [] },
    noNewPrivileges: true,
  });
  expect(await runExec(daemon, { id, execId: "all", spec, stdout } as never)).toBe(0);
  expect(outputOf({ stdout }).trim().split("\n")).toEqual([
    "/tmp",
    "0027",
    "1000",
    "1001",
    "1001 7 8",
    "123",
    "hello world",
    "CapEff:\t0000000000000000",
    "NoNewPrivs:\t1",
  ]);

  const long = "x".repeat(64 * 1024);
  const count = execSpec(["sh", "-c", "echo ${#0} ${#1}", long, `${long}y`]);
  const second = makeBundle(containerd, id, "long-output", ["true"]).stdout;
  expect(await runExec(daemon, { id, execId: "long", spec: count, stdout: second } as never)).toBe(0);
  expect(outputOf({ stdout: second })).toBe("65536 65537\n");
}

/** The methods of the task service that the checklist does not name. */
export const methodLines: readonly Line[] = [
  {
    name: "Pause, Resume: states, events, output stands still; signals to a paused container",
    run: pauseLine,
  },
  { name: "Stats count; Update changes limits, refuses what does not fit", run: statsLine },
  { name: "a container out of memory: event, exit 137, oom_kill in Stats after its end", run: oomLine },
  { name: "Pids: the sandbox's pid for init and each exec, by name", run: pidsLine },
  { name: "Kill: real-time signals, all, execs, invalid ones", run: killLine },
  { name: "Exec: what an OCI process can say; 64 KiB of arguments", run: execLine },
];
