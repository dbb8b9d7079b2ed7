import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { expect } from "vitest";
import { containerd as messages, google } from "../../src/gen/bootstrap.js";
import { containerd as task } from "../../src/gen/containerd.js";
import { taskMethods } from "../../src/shim/task-api.ts";
import { method } from "../../src/ttrpc/method.ts";
import { type Containerd, taskState } from "../support/containerd.ts";
import { watchEvents } from "../support/containerd-events.ts";
import {
  addressOf,
  bundleOf,
  connectDaemon,
  daemonOf,
  isServed,
  makeBundle,
  outputOf,
  runShim,
  shimDelete,
  taskV2,
  taskV3,
} from "./acceptance-daemon.ts";
import { type Line, until } from "./acceptance-lines.ts";
import { patient } from "../support/patience.ts";

const { Status } = task.v1.types;
const { BootstrapParams } = messages.runtime.bootstrap.v1;

/** A bundle for `start` alone. */
function podBundle(
  containerd: Containerd,
  id: string,
  annotations?: Readonly<Record<string, string>>,
): string {
  const bundle = containerd.dir.join("own", id);
  mkdirSync(bundle, { recursive: true });
  if (annotations !== undefined) writeFileSync(`${bundle}/config.json`, JSON.stringify({ annotations }));
  return bundle;
}

async function startPod(
  containerd: Containerd,
  id: string,
  bundle: string,
  stdin?: Uint8Array,
): Promise<string> {
  const outcome = await runShim(containerd, ["start"], {
    id,
    bundle,
    ...(stdin === undefined ? {} : { stdin }),
  });
  expect(outcome).toMatchObject({ exitCode: 0, stderr: "" });
  const text = outcome.stdout.toString();
  // The form of containerd 2.3 and later for those who ask as it does.
  const address = text.startsWith("{") ? (JSON.parse(text) as { address: string }).address : text;
  expect(address).toMatch(/^unix:\/\/\/\S+$/);
  // Reachable by now, and noted.
  expect(`unix://${addressOf(bundle)}`).toBe(address);
  expect(await isServed(addressOf(bundle))).toBe(true);
  return address;
}

async function shimPidOf(socketPath: string): Promise<number> {
  await using daemon = await connectDaemon(socketPath);
  return (await daemon.call("connect", { id: "unknown" })).shimPid;
}

async function startLine(containerd: Containerd): Promise<void> {
  const group = { "io.kubernetes.cri.sandbox-id": containerd.id("pod") };
  const ids = ["pod", "app", "bare"].map((name) => containerd.id(name));
  const [pod = "", app = "", bare = ""] = ids;
  const bundles = [
    podBundle(containerd, pod, group),
    podBundle(containerd, app, group),
    podBundle(containerd, bare),
  ];
  const [podDir = "", appDir = "", bareDir = ""] = bundles;
  const any = google.protobuf.Any.encode({ type_url: "containerd.runc.v1.Options" }).finish();
  const params = BootstrapParams.encode({ instanceId: bare, namespace: containerd.namespace }).finish();

  const address = await startPod(containerd, pod, podDir);
  expect(await startPod(containerd, app, appDir, any)).toBe(address);
  expect(await startPod(containerd, bare, bareDir, params)).not.toBe(address);

  const socketPath = addressOf(podDir);
  process.kill(await shimPidOf(socketPath), "SIGKILL");
  await until("the daemon is gone", async () => !(await isServed(socketPath)));
  expect(existsSync(socketPath)).toBe(true);
  expect(await startPod(containerd, pod, podDir)).toBe(address);

  for (const [index, id] of ids.entries()) await shimDelete(containerd, id, bundles[index] ?? "");
  for (const bundle of bundles) rmSync(bundle, { recursive: true });
}

async function addressLine(containerd: Containerd): Promise<void> {
  await using _task = await containerd.startTask([], containerd.id("address"), "sleep", "3600");
  await using daemon = await daemonOf(containerd, containerd.id("address"));

  expect(await daemon.call("state", { id: containerd.id("address") })).toMatchObject({
    status: Status.RUNNING,
  });
}

async function deleteLine(containerd: Containerd): Promise<void> {
  await using host = await containerd.startTask([], containerd.id("files"), "sleep", "3600");
  const id = containerd.id("decay");
  const request = makeBundle(containerd, host.id, id, ["sleep", "3600"]);
  const { bundle } = request;
  const times: string[] = [];
  const remove = async (what: string) => {
    const durationMs = await shimDelete(containerd, id, bundle);
    times.push(`${what} ${Math.round(durationMs)} ms`);
  };
  const startOwn = async () => {
    await startPod(containerd, id, bundle);
    return connectDaemon(addressOf(bundle));
  };

  // A live daemon with a running container; then with nothing, twice.
  {
    await using daemon = await startOwn();
    await daemon.call("create", request);
    await daemon.call("start", { id });
    await remove("running");
    await daemon.client.closed;
    await remove("nothing");
  }
  // After Delete and Shutdown, as containerd ends a container.
  {
    await using daemon = await startOwn();
    await daemon.call("create", request);
    await daemon.call("kill", { id, signal: 9, all: true });
    await daemon.call("wait", { id });
    await daemon.call("delete", { id });
    await daemon.call("shutdown", { id });
    await remove("normal");
  }
  // Half made.
  {
    await using daemon = await startOwn();
    const created = daemon.code("create", request);
    await new Promise((resolve) => setTimeout(resolve, 300)); // In the middle of the boot; the moment does not matter.
    await remove("half-made");
    expect(await created).not.toBe("ok");
  }
  // A dead daemon, and no bundle.
  {
    await using daemon = await startOwn();
    await daemon.call("create", request);
    process.kill((await daemon.call("connect", { id })).shimPid, "SIGKILL");
    await daemon.client.closed;
    rmSync(`${bundle}/config.json`);
    rmSync(`${bundle}/address`);
    await remove("dead daemon");
    await remove("again");
  }
  console.log(`delete: ${times.join(", ")}`);
  expect(existsSync(bundle)).toBe(true);
  rmSync(bundle, { recursive: true });
}

async function infoLine(containerd: Containerd): Promise<void> {
  const info = await runShim(containerd, ["-info"]);
  const version = await runShim(containerd, ["-v"]);

  expect(info).toMatchObject({ exitCode: 0, stderr: "" });
  expect(messages.types.RuntimeInfo.decode(info.stdout).name).toBe("io.containerd.caisson.v2");
  expect(version).toMatchObject({ exitCode: 0, stderr: "" });
  expect(version.stdout.toString()).toMatch(/\d+\.\d+\.\d+/);
}

async function servicesLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("services");
  await using _task = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  const { client } = daemon;
  const unknown = method("NoSuch", taskMethods.state.request, taskMethods.state.response);

  for (const service of [taskV2, taskV3]) {
    expect(await client.call(service, taskMethods.state, { id })).toMatchObject({ status: Status.RUNNING });
    await expect(client.call(service, unknown, { id })).rejects.toMatchObject({ code: "unimplemented" });
  }
  const other = client.call("containerd.task.v9.Task", taskMethods.state, { id });
  await expect(other).rejects.toMatchObject({ code: "unimplemented" });
  expect(await daemon.code("checkpoint", { id, path: "/tmp/x" })).toBe("unimplemented");
}

async function neverBlocksLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("answers");
  await using running = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  const { shimPid, taskPid } = await daemon.call("connect", { id: "unknown" });
  expect([shimPid > 0, taskPid]).toEqual([true, 0]);
  expect((await daemon.call("pids", { id })).processes).toMatchObject([{ pid: running.pid }]);

  process.kill(running.pid, "SIGSTOP");
  try {
    const begin = performance.now();
    expect(await daemon.call("state", { id })).toMatchObject({ status: Status.RUNNING });
    expect((await daemon.call("pids", { id })).processes).toHaveLength(1);
    expect(await taskState(containerd, id)).toMatchObject({ status: "RUNNING" });
    expect(performance.now() - begin).toBeLessThan(patient(2000));
  } finally {
    process.kill(running.pid, "SIGCONT");
  }
}

async function beforeStartLine(containerd: Containerd): Promise<void> {
  const missing = containerd.id("missing");
  await using events = await watchEvents(containerd);
  const result = await containerd.ctr(containerd.runArgs(["--rm"], missing, "/no/such/command"));
  expect(result.exitCode).not.toBe(0);
  expect(result.stderr).toContain("/no/such/command");
  await using host = await containerd.startTask([], containerd.id("files"), "sleep", "3600");
  expect(events.topicsOf(missing)).not.toContain("/tasks/exit");
  await using daemon = await daemonOf(containerd, host.id);
  expect(await daemon.code("create", makeBundle(containerd, host.id, "absent", ["/no/such"]))).not.toBe("ok");
  // As containerd does after a Create that has failed.
  await daemon.call("shutdown", { id: "absent" });

  const script = "stty size; exit 3";
  const tty = makeBundle(containerd, host.id, "tty", ["sh", "-c", script], { terminal: true });
  await daemon.call("create", tty);
  await daemon.call("resizePty", { id: "tty", width: 77, height: 33 });
  expect((await daemon.call("stats", { id: "tty" })).stats?.type_url).toMatch(
    existsSync("/sys/fs/cgroup/cgroup.controllers")
      ? "io.containerd.cgroups.v2.Metrics"
      : "io.containerd.cgroups.v1.Metrics",
  );
  await daemon.call("start", { id: "tty" });
  expect(await daemon.call("wait", { id: "tty" })).toMatchObject({ exitStatus: 3 });
  expect(outputOf(tty).trim()).toBe("33 77");
  await daemon.call("delete", { id: "tty" });

  await daemon.call("create", makeBundle(containerd, host.id, "killed", ["sleep", "3600"]));
  await daemon.call("kill", { id: "killed", signal: 9, all: true });
  expect(await daemon.call("wait", { id: "killed" })).toMatchObject({ exitStatus: 137 });
  expect(await daemon.call("state", { id: "killed" })).toMatchObject({
    status: Status.STOPPED,
    exitStatus: 137,
  });
  await daemon.call("delete", { id: "killed" });
}

async function shutdownLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("shutdown");
  let socketPath = "";
  {
    await using _task = await containerd.startTask([], id, "sleep", "3600");
    await using daemon = await daemonOf(containerd, id);
    ({ socketPath } = daemon);
    await daemon.call("shutdown", { id });
    await daemon.call("shutdown", { id: "another" });
    expect(await daemon.call("state", { id })).toMatchObject({ status: Status.RUNNING });
  }
  await until("the socket is gone", () => !existsSync(socketPath));
  expect(existsSync(bundleOf(containerd, id))).toBe(false);
}

async function killedServerLine(containerd: Containerd): Promise<void> {
  const id = containerd.id("server");
  await using events = await watchEvents(containerd);
  await using running = await containerd.startTask([], id, "sleep", "3600");
  await using daemon = await daemonOf(containerd, id);
  process.kill((await daemon.call("connect", { id })).shimPid, "SIGKILL");
  const exit = await events.waitFor(({ topic, content }) => topic === "/tasks/exit" && content["id"] === id);

  expect(exit.content).toMatchObject({ exit_status: 137 });
  await until("the VM is gone", () => !existsSync(`/proc/${running.pid}`));
  await until("the task is gone", async () => (await taskState(containerd, id)) === undefined);
  expect(existsSync(daemon.socketPath)).toBe(false);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(`/${id}/`);
}

/** What the executable does, and how a daemon lives and ends. */
export const shimLines: readonly Line[] = [
  {
    name: "start prints one address, the same for a pod; stale socket replaced; both stdin formats, none; no config.json",
    run: startLine,
  },
  { name: "address file in the bundle; the server is reachable", run: addressLine },
  {
    name: "delete with live server, dead server, half-made container, missing files, called twice; only the protobuf",
    run: deleteLine,
  },
  { name: "-info without flags and with empty stdin; -v", run: infoLine },
  { name: "both Task services; Unimplemented for unknown services and methods", run: servicesLine },
  { name: "Connect on unknown id; Pids never empty; State never blocks", run: neverBlocksLine },
  { name: "Create fails for a missing binary; ResizePty, Stats, Kill before Start", run: beforeStartLine },
  { name: "Shutdown ignored while tasks exist; exits and unlinks when none", run: shutdownLine },
  { name: "SIGKILL of the server: VM, mounts, sockets freed; containerd reports 137", run: killedServerLine },
];
