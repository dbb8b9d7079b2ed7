import { mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { google } from "../../src/gen/bootstrap.js";
import { containerd as runc } from "../../src/gen/options.js";
import { type Containerd, taskState } from "../support/containerd.ts";
import { addressOf, connectDaemon, daemonOf, makeBundle, runShim, shimDelete } from "./acceptance-daemon.ts";
import { type Line, until } from "./acceptance-lines.ts";
import { twoVcpus } from "../support/suite-settings.ts";

const guestMemory = ["sh", "-c", "grep MemTotal /proc/meminfo; nproc"];

/** Runs a container that prints its VM's memory in MiB and its CPUs. */
async function sizeOf(containerd: Containerd, name: string, flags: readonly string[]) {
  const { stdout } = await containerd.ctrOk(
    containerd.runArgs(["--rm", ...flags], containerd.id(name), ...guestMemory),
  );
  const [memory = "", cpus = ""] = stdout.split("\n");
  return { memoryMiB: Number(/\d+/.exec(memory)?.[0]) / 1024, cpus: Number(cpus) };
}

async function refused(containerd: Containerd, name: string, flags: readonly string[], message: RegExp) {
  const result = await containerd.ctr(containerd.runArgs(["--rm", ...flags], containerd.id(name), "true"));
  expect(result.exitCode).not.toBe(0);
  expect(result.stderr).toMatch(message);
  expect(await taskState(containerd, containerd.id(name))).toBeUndefined();
  await containerd.ctr(["container", "rm", containerd.id(name)]);
}

async function runtimeOptionsLine(containerd: Containerd): Promise<void> {
  const path = containerd.dir.join("sandbox.toml");
  const flags = ["--runtime-config-path", path];
  writeFileSync(path, "default_memory_mib = 300\ndefault_vcpus = 2\n");
  const size = await sizeOf(containerd, "options", flags);
  expect(size.cpus).toBe(twoVcpus);
  expect(size.memoryMiB).toBeGreaterThan(200);
  expect(size.memoryMiB).toBeLessThan(300);

  writeFileSync(path, "no_such_setting = 1\n");
  await refused(containerd, "unknown", flags, /"no_such_setting" is not a setting/);
  rmSync(path);
  await refused(containerd, "missing", flags, /sandbox\.toml.*no such file/);
}

async function shimCgroupLine(containerd: Containerd): Promise<void> {
  await using host = await containerd.startTask([], containerd.id("files"), "sleep", "3600");
  const id = containerd.id("cgroup");
  const request = makeBundle(containerd, host.id, id, ["sleep", "3600"]);
  const stdin = (shimCgroup: string) =>
    google.protobuf.Any.encode({
      type_url: "containerd.runc.v1.Options",
      value: runc.runc.v1.Options.encode({ shimCgroup }).finish(),
    }).finish();
  const { bundle } = request;
  const missing = await runShim(containerd, ["start"], { id, bundle, stdin: stdin(`/${id}`) });
  expect(missing).toMatchObject({ exitCode: 1, stdout: Buffer.alloc(0) });
  expect(missing.stderr).toContain("must be made first");

  using _cgroups = makeCgroups(id);
  expect(await runShim(containerd, ["start"], { id, bundle, stdin: stdin(`/${id}`) })).toMatchObject({
    exitCode: 0,
  });
  {
    await using daemon = await connectDaemon(addressOf(bundle));
    await daemon.call("create", request);
    const { shimPid, taskPid } = await daemon.call("connect", { id });
    for (const pid of [shimPid, taskPid]) {
      expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toContain(`:/${id}\n`);
    }
  }
  await shimDelete(containerd, id, bundle);
}

/** A cgroup in each hierarchy of v1 that can take one, or in the unified one. */
function makeCgroups(name: string): Disposable {
  const root = "/sys/fs/cgroup";
  const isUnified = readdirSync(root).includes("cgroup.controllers");
  const wanted = isUnified
    ? [root]
    : ["memory", "pids", "freezer"].map((controller) => join(root, controller));
  const paths = wanted
    .filter((path) => statSync(path, { throwIfNoEntry: false }))
    .map((path) => join(path, name));
  for (const path of paths) mkdirSync(path);
  return {
    [Symbol.dispose]: () => {
      for (const path of paths) rmdirSync(path);
    },
  };
}

async function annotationsLine(containerd: Containerd): Promise<void> {
  const memory = ["--annotation", "io.caisson.memory_mib=320"];
  await refused(containerd, "forbidden", memory, /"io\.caisson\.memory_mib".*allowed_annotations/);
  using _allowed = containerd.configure(
    'allowed_annotations = ["io.caisson.memory_mib", "io.caisson.vcpus", "io.caisson.kernel"]',
  );
  const size = await sizeOf(containerd, "annotated", [...memory, "--annotation", "io.caisson.vcpus=2"]);
  // What is asked for by annotation is given, on a smaller host too.
  expect(size.cpus).toBe(2);
  expect(size.memoryMiB).toBeGreaterThan(220);
  expect(size.memoryMiB).toBeLessThan(320);

  const annotation = (text: string) => ["--annotation", text];
  await refused(
    containerd,
    "hostile",
    annotation("io.caisson.memory_mib=64M;reboot"),
    /"io\.caisson\.memory_mib"/,
  );
  await refused(
    containerd,
    "outside",
    annotation("io.caisson.kernel=/etc/passwd"),
    /"io\.caisson\.kernel".*below/,
  );
  await refused(
    containerd,
    "none",
    annotation("io.caisson.hypervisor=/bin/sh"),
    /"io\.caisson\.hypervisor".*not known/,
  );
}

async function groupLine(containerd: Containerd): Promise<void> {
  const pod = containerd.id("pod");
  const flags = ["--annotation", `io.kubernetes.cri.sandbox-id=${pod}`];
  let socketPath = "";
  {
    await using first = await containerd.startTask(flags, pod, "sleep", "3600");
    {
      await using second = await containerd.startTask(flags, containerd.id("app"), "sleep", "3600");
      expect(second.pid).toBe(first.pid);
      await using daemon = await daemonOf(containerd, second.id);
      expect(await daemon.code("state", { id: pod })).toBe("ok");
      ({ socketPath } = daemon);
    }
    expect(await taskState(containerd, pod)).toMatchObject({ status: "RUNNING" });
    // The first may go before others, too: the sandbox goes with the last.
    await using third = await containerd.startTask(flags, containerd.id("late"), "sleep", "3600");
    await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", pod]);
    await until("it has ended", async () => (await taskState(containerd, pod))?.status === "STOPPED");
    await containerd.ctrOk(["task", "delete", pod]);
    expect(await taskState(containerd, third.id)).toMatchObject({ status: "RUNNING", pid: first.pid });
  }
  await until("the socket is gone", () => statSync(socketPath, { throwIfNoEntry: false }) === undefined);
}

/** What clients and operators can set for a sandbox, and who shares one. */
export const settingLines: readonly Line[] = [
  {
    name: "runtime options: settings from a file apply to the sandbox, wrong ones are refused",
    run: runtimeOptionsLine,
  },
  { name: "runtime options: shim_cgroup takes the daemon and its VM", run: shimCgroupLine },
  { name: "annotations: applied when allowed, refused by name otherwise", run: annotationsLine },
  { name: "containers of a group share a VM, which lives until the last", run: groupLine },
];
