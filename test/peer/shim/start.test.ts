import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { isAlive, signalProcess } from "../../../src/base/processes.ts";
import { containerd, google } from "../../../src/gen/bootstrap.js";
import { socketPath } from "../../../src/shim/socket-path.ts";
import { containerd as runc, runtimeoptions } from "../../../src/gen/options.js";
import { taskMethods } from "../../../src/shim/task-api.ts";
import { createShimProcess, ended, runContainer, service } from "./shim-process.ts";

const pod = { "io.kubernetes.cri.sandbox-id": "pod" };

test("start prints exactly the address of a daemon that serves, and notes it", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["sleep"]);

  const { address, client } = await shim.start({ id: "a" });

  const path = socketPath({
    address: "",
    namespace: shim.namespace,
    sandboxId: "a",
    stateDirectory: shim.dir.join("state"),
  });
  expect(address).toBe(`unix://${path}`);
  expect(readFileSync(`${bundle}/address`, "utf8")).toBe(address);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(statSync(dirname(path)).mode & 0o777).toBe(0o700);
  const { shimPid, taskPid } = await client.call(service, taskMethods.connect, { id: "a" });
  expect(shimPid).toBe(shim.record("a").daemon.pid);
  expect(taskPid).toBe(0);
  await client[Symbol.asyncDispose]();
});

test("start says nothing else although Node is told to warn", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);

  const outcome = await shim.run("start", {
    id: "a",
    environment: { NODE_OPTIONS: "--trace-warnings --pending-deprecation" },
  });

  expect(outcome.stdout.toString()).toMatch(/^unix:\/\/\/\S+$/);
  expect(outcome.stderr).toBe("");
  const { daemon } = shim.record("a");
  // The daemon holds none of our stdio, and nothing of what is said to Node but where its compiled code is.
  expect(readFileSync(`/proc/${daemon.pid}/environ`, "latin1")).not.toMatch(/NODE_(?!COMPILE_CACHE)/);
  expect(readFileSync(`/proc/${daemon.pid}/cmdline`, "latin1")).toMatch(/^containerd-shim-caisson-v2/);
  signalProcess(daemon, "SIGTERM");
  expect(await ended(daemon)).toBe(true);
  expect(shim.leftovers().filter((path) => !path.endsWith(".json"))).toHaveLength(1);
});

test("start raises the daemon's OOM score above its own", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const own = Number(readFileSync("/proc/self/oom_score_adj", "utf8"));

  const { client } = await shim.start({ id: "a" });

  const score = Number(readFileSync(`/proc/${shim.record("a").daemon.pid}/oom_score_adj`, "utf8"));
  expect(score).toBe(Math.min(own + 1, 1000));
  await client[Symbol.asyncDispose]();
});

test("start of a second container of a group returns the daemon that serves", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("pod", ["sleep"], pod);
  const bundle = shim.makeBundle("app", ["sleep"], pod);

  const first = await shim.start({ id: "pod" });
  const second = await shim.start({ id: "app" });

  expect(second.address).toBe(first.address);
  expect(readFileSync(`${bundle}/address`, "utf8")).toBe(first.address);
  expect(shim.record("app").daemon).toEqual(shim.record("pod").daemon);
  await Promise.all([first.client[Symbol.asyncDispose](), second.client[Symbol.asyncDispose]()]);
});

test("four starts of one group at once agree on one daemon", async () => {
  await using shim = createShimProcess();
  const ids = ["a", "b", "c", "d"];
  for (const id of ids) shim.makeBundle(id, ["sleep"], pod);

  const started = await Promise.all(ids.map((id) => shim.start({ id })));

  expect(new Set(started.map(({ address }) => address)).size).toBe(1);
  expect(new Set(ids.map((id) => shim.record(id).daemon.pid)).size).toBe(1);
  for (const { client } of started) await client[Symbol.asyncDispose]();
});

test("start replaces a stale socket", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const first = await shim.start({ id: "a" });
  signalProcess(shim.record("a").daemon, "SIGKILL");
  await first.client.closed;

  const second = await shim.start({ id: "a" });

  expect(second.address).toBe(first.address);
  expect((await second.client.call(service, taskMethods.connect, { id: "a" })).shimPid).toBe(
    shim.record("a").daemon.pid,
  );
  await second.client[Symbol.asyncDispose]();
});

test("start does not join a daemon that is ending", async () => {
  await using shim = createShimProcess();
  const bundle = shim.makeBundle("a", ["exit", "0"]);
  const first = await shim.start({ id: "a" });
  await runContainer(first.client, "a", bundle);
  await first.client.call(service, taskMethods.delete, { id: "a" });
  const { daemon } = shim.record("a");

  await first.client.call(service, taskMethods.shutdown, { id: "a" });
  const second = await shim.start({ id: "a" });

  expect(shim.record("a").daemon.pid).not.toBe(daemon.pid);
  await runContainer(second.client, "a", bundle);
  await second.client[Symbol.asyncDispose]();
});

test("start takes BootstrapParams with a directory for the socket", async () => {
  await using shim = createShimProcess("/run/x.sock");
  shim.makeBundle("a", ["sleep"]);
  const socketDir = shim.dir.join("s");
  const params = { instanceId: "a", namespace: shim.namespace, socketDir };

  const { address, version, client } = await shim.start({
    id: "a",
    stdin: containerd.runtime.bootstrap.v1.BootstrapParams.encode(params).finish(),
  });

  expect(version).toBe(3);
  expect(dirname(address)).toBe(`unix://${socketDir}`);
  await client[Symbol.asyncDispose]();
});

test("start takes the Any of older containerds and a bundle without config.json", async () => {
  await using shim = createShimProcess();
  rmSync(`${shim.makeBundle("a", [])}/config.json`);
  const stdin = google.protobuf.Any.encode({
    type_url: "runtimeoptions.v1.Options",
    value: Buffer.from("0a0178", "hex"),
  }).finish();

  const { client, version } = await shim.start({ id: "a", stdin });

  // Only containerd 2 has bundles of sandboxes.
  expect(version).toBe(3);

  expect((await client.call(service, taskMethods.connect, { id: "a" })).shimPid).toBeGreaterThan(0);
  await client[Symbol.asyncDispose]();
});

test("start fails, and leaves no daemon, for settings and cgroups that cannot be had", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const any = (typeUrl: string, value: Uint8Array) =>
    google.protobuf.Any.encode({ type_url: typeUrl, value }).finish();
  const settings = (toml: string) =>
    any(
      "runtimeoptions.v1.Options",
      runtimeoptions.v1.Options.encode({ configBody: Buffer.from(toml) }).finish(),
    );
  const cases: readonly (readonly [Uint8Array, RegExp])[] = [
    [settings("no_such_key = 1"), /"no_such_key" is not a setting/],
    [settings("default_vcpus = 0"), /default_vcpus = 0, expected a whole number/],
    [settings('state_directory = "/x"'), /cannot be set for a single sandbox/],
    [
      any(
        "containerd.runc.v1.Options",
        runc.runc.v1.Options.encode({ shimCgroup: "/caisson-no-such" }).finish(),
      ),
      /"\/caisson-no-such": there is none/,
    ],
  ];

  for (const [stdin, message] of cases) {
    const outcome = await shim.run("start", { id: "a", stdin });
    expect(outcome.stderr).toMatch(message);
    expect(outcome).toMatchObject({ exitCode: 1, stdout: Buffer.alloc(0) });
    // The socket and the record; the fake sandbox has a directory from the start on, a real one only with a container.
    await expect.poll(() => shim.leftovers().filter((path) => path.includes("/.shims/"))).toEqual([]);
  }
  const { client } = await shim.start({ id: "a", stdin: settings("default_vcpus = 2") });
  expect(await client.call(service, taskMethods.connect, { id: "a" })).toMatchObject({ taskPid: 0 });
  await client[Symbol.asyncDispose]();
});

test("a daemon whose start was killed before it printed ends", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  // The note cannot be written: the helper fails after the daemon serves.
  mkdirSync(shim.dir.join("state/.shims", `${shim.namespace}+a.json`), { recursive: true });

  const outcome = await shim.run("start", { id: "a" });

  expect(outcome.exitCode).toBe(1);
  const path = socketPath({
    address: "",
    namespace: shim.namespace,
    sandboxId: "a",
    stateDirectory: shim.dir.join("state"),
  });
  await expect.poll(() => existsSync(path)).toBe(false);
});

test("start reports what keeps the daemon from starting, and leaves nothing", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const path = socketPath({
    address: "",
    namespace: shim.namespace,
    sandboxId: "a",
    stateDirectory: shim.dir.join("state"),
  });
  mkdirSync(path, { recursive: true });

  const outcome = await shim.run("start", { id: "a" });

  expect(outcome.exitCode).toBe(1);
  expect(outcome.stderr).toContain("a");
  expect(outcome.stdout).toHaveLength(0);
});

interface Refusal {
  readonly name: string;
  readonly id?: string;
  readonly flags?: readonly string[];
  readonly stdin?: Uint8Array;
  readonly action?: string;
  readonly want: RegExp;
}

const refusals: readonly Refusal[] = [
  ...["", ".", "..", "../x", "a/b", "a".repeat(77), "-rf", "a..b", "a\nb", "ａ", "%2e%2e", "__proto__"].map(
    (id) => ({
      name: `the id ${JSON.stringify(id).slice(0, 20)}`,
      id,
      want: /^Cannot use container id /,
    }),
  ),
  { name: "a namespace with a path", flags: ["-namespace", "../n"], want: /^Cannot use namespace / },
  { name: "a relative bundle", flags: ["-bundle", "b"], want: /expected an absolute path/ },
  { name: "a bundle that is a file", flags: ["-bundle", "/etc/passwd"], want: /expected a directory/ },
  {
    name: "a bundle that is not there",
    flags: ["-bundle", "/nowhere"],
    want: /^Cannot use bundle "\/nowhere"/,
  },
  { name: "an address with a line break", flags: ["-address", "/a\nb"], want: /holds a line break/ },
  {
    name: "random stdin",
    stdin: Buffer.from("ffffffffffff", "hex"),
    want: /^Cannot read the 6 bytes on stdin/,
  },
  { name: "11 MiB of stdin", stdin: Buffer.alloc(11 * 1024 * 1024), want: /more than 10485760 bytes/ },
  { name: "an unknown action", action: "stop", want: /^Cannot run the action "stop"/ },
  { name: "no action", action: "", want: /^Cannot run the action ""/ },
];

test.for(refusals)(
  "start refuses $name and leaves nothing",
  async ({ id = "a", flags = [], stdin, action = "start", want }) => {
    await using shim = createShimProcess();
    const cwd = shim.makeBundle("a", ["sleep"]);

    const outcome = await shim.run(action, { id, cwd, flags, ...(stdin === undefined ? {} : { stdin }) });

    expect(outcome.exitCode).toBe(1);
    expect(outcome.stderr).toMatch(want);
    expect(outcome.stdout).toHaveLength(0);
    expect(shim.leftovers()).toEqual([]);
  },
);

test("start refuses a socket path that is too long before it makes anything", async () => {
  await using shim = createShimProcess("/run/x.sock");
  shim.makeBundle("a", ["sleep"]);
  const socketDir = shim.dir.join("s".repeat(60));
  const params = { instanceId: "a", namespace: shim.namespace, socketDir };
  const stdin = containerd.runtime.bootstrap.v1.BootstrapParams.encode(params).finish();

  const outcome = await shim.run("start", { id: "a", stdin });

  expect(outcome.stderr).toContain("at most 106");
  expect(existsSync(socketDir)).toBe(false);
});

test("start does not take away a socket that somebody else serves", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const path = socketPath({
    address: "",
    namespace: shim.namespace,
    sandboxId: "a",
    stateDirectory: shim.dir.join("state"),
  });
  mkdirSync(dirname(path), { recursive: true });
  const other = createServer((socket) => void socket.destroy());
  await new Promise<void>((resolve) => other.listen(path, resolve));

  const outcome = await shim.run("start", { id: "a" });

  expect(outcome.exitCode).toBe(1);
  expect(existsSync(path)).toBe(true);
  await new Promise((resolve) => other.close(resolve));
});

test("-v and -info answer without any other flag", async () => {
  await using shim = createShimProcess();
  const cwd = shim.makeBundle("a", []);
  writeFileSync(`${cwd}/x`, "");

  const [version, info] = await Promise.all([
    shim.run("", { id: "a", cwd, flags: ["-v"] }),
    shim.run("", { id: "a", cwd, flags: ["-info"] }),
  ]);

  expect(version).toMatchObject({ exitCode: 0, stderr: "" });
  expect(version.stdout.toString()).toMatch(/^containerd-shim-caisson-v2 \d/);
  expect(info).toMatchObject({ exitCode: 0, stderr: "" });
  expect(containerd.types.RuntimeInfo.decode(info.stdout).name).toBe("io.containerd.caisson.v2");
});

test("isAlive() of a record tells daemons apart", async () => {
  await using shim = createShimProcess();
  shim.makeBundle("a", ["sleep"]);
  const { client } = await shim.start({ id: "a" });

  const { daemon } = shim.record("a");

  expect(isAlive(daemon)).toBe(true);
  expect(isAlive({ ...daemon, startTicks: "1" })).toBe(false);
  await client[Symbol.asyncDispose]();
});
