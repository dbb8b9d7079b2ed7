import { closeSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { ReadStream } from "node:tty";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { identify, isAlive } from "../../src/base/processes.ts";
import { loadNative } from "../../src/base/native.ts";
import { buildPath } from "../support/cli-build.ts";
import { run } from "../support/cli-run.ts";
import { createOciCli, type OciCli } from "../support/oci-cli.ts";
import { withSuiteSettings } from "../support/suite-settings.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { patient } from "../support/patience.ts";

/** For what a process in an emulated guest needs to be seen from here. */
const waitFor = { timeout: patient(30_000), interval: 50 };

let cli: OciCli;
beforeAll(async () => {
  cli = await createOciCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

const sleeper = ["sh", "-c", "echo up; sleep 1000"];

test("run in the foreground: stdio, the exit code, and nothing is left", async () => {
  const script = "read line; echo out $line; echo err >&2; exit 7";
  const bundle = cli.bundle("run", ["sh", "-c", script]);
  const id = cli.id("run");

  const result = await cli.run(["run", "--bundle", bundle, id], { input: "hello\n" });

  expect(result).toMatchObject({ exitCode: 7, stdout: "out hello\n", stderr: "err\n" });
  expect(await cli.run(["state", id])).toMatchObject({ exitCode: 1 });
});

test("without --root and with the standard state directory: run, list, and nothing is left", async () => {
  const bundle = cli.bundle("standard", ["sh", "-c", "exit 7"]);
  const id = cli.id("standard");
  const config = cli.dir.join("standard.toml");
  writeFileSync(config, withSuiteSettings(`data_directory = "${cli.dir.join("data")}"`));
  // They stay for the next container.
  const standing = ["/run/caisson-oci", "/run/caisson", "/run/caisson/.shims", "/run/caisson/.user-ids"];
  const places = standing.filter((path) => !existsSync(path));
  using made = new DisposableStack();
  for (const path of places) made.defer(() => rmSync(path, { recursive: true, force: true }));
  const standard = (...args: string[]) =>
    run([buildPath("bin/caisson-oci"), ...args], { env: { CAISSON_CONFIG: config, NOTIFY_SOCKET: "" } });

  expect(await standard("run", "--bundle", bundle, id)).toMatchObject({ exitCode: 7, stderr: "" });
  expect((await standard("list", "-q")).stdout).not.toContain(id);
  for (const path of ["/run/caisson-oci", "/run/caisson/oci"])
    expect(existsSync(`${path}/${id}`)).toBe(false);

  const inside = await standard("--root", "/run/caisson/oci", "run", "--bundle", bundle, id);
  expect(inside.exitCode).toBe(1);
  expect(inside.stderr).toContain("expected a directory outside of state_directory");
});

test("create, state, start, exec, ps, pause, resume, update, events, kill, delete", async () => {
  const id = cli.id("life");
  const output = cli.dir.join("life.out");
  const pidFile = cli.dir.join("life.pid");
  const bundle = cli.bundle("life", sleeper);

  expect(await cli.detached(["create", "--bundle", bundle, "--pid-file", pidFile, id], output)).toMatchObject(
    {
      exitCode: 0,
    },
  );
  const pid = Number(readFileSync(pidFile, "utf8"));
  expect(await cli.state(id)).toEqual({
    ociVersion: "1.0.2",
    id,
    pid,
    status: "created",
    bundle,
    rootfs: cli.dir.join("rootfs"),
    created: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    annotations: { "org.example.test": "yes" },
    owner: "",
  });
  expect(readFileSync(output, "utf8")).toBe("");
  const again = await cli.run(["create", "--bundle", bundle, id]);
  expect(again).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("container with given ID already exists"),
  });

  await cli.ok(["start", id]);
  await vi.waitFor(() => expect(readFileSync(output, "utf8")).toBe("up\n"), waitFor);
  expect(await cli.run(["start", id])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("cannot start an already running container"),
  });
  expect(await cli.run(["delete", id])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining(`cannot delete container ${id} that is not stopped: running`),
  });

  const exec = ["exec", "--env", "A=b c", "--cwd", "/tmp", "--user", "65534:65534", id];
  const inside = await cli.run([...exec, "sh", "-c", 'echo "$A|$(pwd)|$(id -u):$(id -g)"; exit 3']);
  expect(inside).toMatchObject({ exitCode: 3, stdout: "b c|/tmp|65534:65534\n" });
  const missing = await cli.run(["exec", id, "/no/such/command"]);
  expect(missing).toMatchObject({ exitCode: 255, stderr: expect.stringContaining("exec failed: ") });
  expect(missing.stderr).toContain("executable file not found in $PATH");
  expect((await cli.ok(["ps", "--format", "json", id])).stdout).toBe(`[${pid}]\n`);
  expect((await cli.ok(["list", "-q"])).stdout).toBe(`${id}\n`);
  expect(JSON.parse((await cli.ok(["list", "-f", "json"])).stdout)).toMatchObject([
    { id, status: "running", pid },
  ]);

  await cli.ok(["pause", id]);
  expect(await cli.state(id)).toMatchObject({ status: "paused", pid });
  expect(await cli.run(["exec", id, "true"])).toMatchObject({
    exitCode: 255,
    stderr: expect.stringContaining("cannot exec in a paused container"),
  });
  await cli.ok(["resume", id]);
  await cli.ok(["update", "--pids-limit", "77", id]);
  const { data } = JSON.parse((await cli.ok(["events", "--stats", id])).stdout);
  expect(data).toMatchObject({ pids: { limit: 77 }, memory: { usage: { usage: expect.any(Number) } } });

  await cli.ok(["kill", id, "KILL"]);
  await vi.waitFor(
    async () => expect(await cli.state(id)).toMatchObject({ status: "stopped", pid: 0 }),
    waitFor,
  );
  expect(await cli.run(["kill", id])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("container not running"),
  });
  expect(await cli.run(["exec", id, "true"])).toMatchObject({
    exitCode: 255,
    stderr: expect.stringContaining("cannot exec in a stopped container"),
  });
  await cli.ok(["delete", id]);
  expect(await cli.run(["delete", id])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("container does not exist"),
  });
  expect(identify(pid)).toBeUndefined();
});

test("run --detach; signals to the pid in the pid file reach the process, and its end is the proxy's", async () => {
  const id = cli.id("detached");
  const output = cli.dir.join("detached.out");
  const pidFile = cli.dir.join("detached.pid");
  const script =
    "trap 'echo got USR1' USR1; trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done";
  const bundle = cli.bundle("detached", ["sh", "-c", script]);

  const started = await cli.detached(["run", "--detach", "-b", bundle, "--pid-file", pidFile, id], output);
  expect(started).toMatchObject({ exitCode: 0 });
  const pid = Number(readFileSync(pidFile, "utf8"));
  const shows = (text: string) =>
    vi.waitFor(() => expect(readFileSync(output, "utf8")).toContain(text), waitFor);
  await shows("up");
  process.kill(pid, "SIGUSR1");
  await shows("got USR1");
  process.kill(pid, "SIGTERM");
  await shows("bye");
  await vi.waitFor(() => expect(identify(pid)).toBeUndefined(), waitFor);

  expect(await cli.state(id)).toMatchObject({ status: "stopped" });
  await cli.ok(["delete", id]);
});

test("--console-socket: the receiver of the master is at the process's terminal, and its size is followed", async () => {
  const id = cli.id("console");
  const socket = cli.dir.join("console.sock");
  const listener = loadNative().listenUnix(socket);
  const bundle = cli.bundle(
    "console",
    ["sh", "-c", "tty; read line; trap 'exit 9' INT; stty size; echo ready; while :; do sleep 0.1; done"],
    {
      terminal: true,
    },
  );
  const pidFile = cli.dir.join("console.pid");
  const created = await cli.run([
    "create",
    "-b",
    bundle,
    "--console-socket",
    socket,
    "--pid-file",
    pidFile,
    id,
  ]);
  expect(created).toMatchObject({ exitCode: 0, stderr: "" });
  const { fd, data } = loadNative().receiveFd(listener);
  closeSync(listener);
  expect(data).toMatch(/^\/dev\/pts\/\d+$/);
  let shown = "";
  const master = new ReadStream(fd);
  master.on("data", (chunk) => {
    shown += String(chunk);
  });
  master.on("error", () => {
    // EIO: the other side is closed.
  });
  const shows = (text: string) => vi.waitFor(() => expect(shown).toContain(text), waitFor);

  await cli.ok(["start", id]);
  await shows("/dev/pts/0");
  loadNative().setWindowSize(fd, 132, 43);
  // The size goes one way and the keys another.
  await vi.waitFor(async () => {
    const size = await cli.run(["exec", id, "stty", "-F", "/dev/pts/0", "size"]);
    expect(size.stdout).toBe("43 132\n");
  }, waitFor);
  writeSync(fd, "go\r");
  await shows("43 132");
  await shows("ready");
  // What the guest's terminal makes of Ctrl-C, not the host's.
  writeSync(fd, "\u0003");
  const pid = Number(readFileSync(pidFile, "utf8"));
  await vi.waitFor(() => expect(identify(pid)).toBeUndefined(), waitFor);
  master.destroy();
  await cli.ok(["delete", id]);
});

test("exec --detach with a process file and a pid file; SIGKILL of its proxy ends it and nothing else", async () => {
  const id = cli.id("exec");
  const bundle = cli.bundle("exec", sleeper);
  await cli.detached(["run", "-d", "-b", bundle, id], cli.dir.join("exec.out"));
  const processFile = cli.dir.join("process.json");
  const script = "echo $$ >/tmp/pid; exec sleep 999";
  writeFileSync(
    processFile,
    JSON.stringify({ args: ["sh", "-c", script], cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } }),
  );
  const pidFile = cli.dir.join("exec.pid");
  const exec = ["exec", "--process", processFile, "--detach", "--pid-file", pidFile, id];
  expect(await cli.detached(exec, "/dev/null")).toMatchObject({ exitCode: 0 });
  const pid = Number(readFileSync(pidFile, "utf8"));
  const isInGuest = async () => (await cli.ok(["exec", id, "ps"])).stdout.includes("sleep 999");
  expect(await isInGuest()).toBe(true);

  process.kill(pid, "SIGKILL");

  await vi.waitFor(async () => expect(await isInGuest()).toBe(false), waitFor);
  expect(await cli.state(id)).toMatchObject({ status: "running" });
  await cli.ok(["delete", "--force", id]);
});

test("SIGKILL of the container's proxy kills its process; list shows it stopped, delete removes it", async () => {
  const id = cli.id("killed");
  const bundle = cli.bundle("killed", sleeper);
  await cli.detached(["run", "-d", "-b", bundle, id], cli.dir.join("killed.out"));
  const { pid } = await cli.state(id);

  process.kill(pid, "SIGKILL");

  await vi.waitFor(async () => {
    const listed: unknown = JSON.parse((await cli.ok(["list", "-f", "json"])).stdout);
    expect(listed).toMatchObject([{ id, status: "stopped", pid: 0 }]);
  }, waitFor);
  await cli.ok(["delete", id]);
});

test("SIGKILL of the daemon: the proxy ends, list shows it stopped, delete --force leaves nothing", async () => {
  const id = cli.id("daemon");
  const bundle = cli.bundle("daemon", sleeper);
  await cli.detached(["run", "-d", "-b", bundle, id], cli.dir.join("daemon.out"));
  const proxy = identify((await cli.state(id)).pid);
  const record = JSON.parse(readFileSync(shimRecord(id), "utf8")) as { daemon: { pid: number } };

  process.kill(record.daemon.pid, "SIGKILL");

  await vi.waitFor(() => expect(proxy === undefined || isAlive(proxy)).toBe(false), waitFor);
  expect(await cli.state(id)).toMatchObject({ status: "stopped", pid: 0 });
  await cli.ok(["delete", "--force", id]);
});

test("a create that fails leaves nothing, and the id works again; what is left of a killed one is removed by force", async () => {
  const id = cli.id("failing");
  const failing = cli.bundle("failing", ["/no/such/command"]);
  const pidFile = cli.dir.join("failing.pid");
  const failed = await cli.run(["create", "-b", failing, "--pid-file", pidFile, id]);
  expect(failed).toMatchObject({
    exitCode: 1,
    stderr: expect.stringMatching(
      /exec: .{0,2}"\/no\/such\/command.{0,2}": executable file not found in \$PATH/,
    ),
  });
  expect(existsSync(pidFile)).toBe(false);

  const creating = cli.start(["create", "-b", cli.bundle("half", sleeper), id]);
  await vi.waitFor(() => expect(existsSync(cli.dir.join("root", id, "io"))).toBe(true), waitFor);
  creating.child.kill("SIGKILL");
  await creating.ended;
  expect(await cli.state(id)).toMatchObject({ status: "stopped", pid: 0 });
  await cli.ok(["delete", "--force", id]);
  expect(existsSync(cli.dir.join("root", id))).toBe(false);
});

/** What the daemon's starter has noted of it. */
function shimRecord(id: string): string {
  const directory = cli.dir.join("run", ".shims");
  const name = readdirSync(directory).find((entry) => entry.endsWith(`+${id}.json`));
  return `${directory}/${name}`;
}
