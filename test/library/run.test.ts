import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CommandError, Sandbox, type SandboxOptions } from "../../src/index.ts";
import { image } from "../support/cli.ts";
import { createLibrary, type Library } from "../support/library.ts";

let library: Library;
let sandbox: Sandbox;
beforeAll(async () => {
  library = await createLibrary();
  sandbox = await library.create({
    env: { FROM: "sandbox", BOTH: "sandbox" },
    cwd: "/tmp",
    limits: { memoryMiB: 128, pids: 64 },
  });
});
afterAll(async () => {
  await sandbox.close();
  await library[Symbol.asyncDispose]();
});

const shell = (script: string, options?: Parameters<Sandbox["run"]>[2]) =>
  sandbox.run("sh", ["-c", script], options);

test("run keeps stdout and stderr apart, and an exit code is no error", async () => {
  expect(await shell("echo out; echo err >&2; exit 3")).toEqual({
    exitCode: 3,
    stdout: "out\n",
    stderr: "err\n",
  });
});

test("environment, working directory and user: those of the command, else those of the sandbox", async () => {
  const script = 'echo "$FROM $BOTH $(pwd) $(id -u):$(id -g)"';
  const options = { env: { BOTH: "command" }, cwd: "/", user: "65534:65534" };

  expect(await shell(script)).toMatchObject({ stdout: "sandbox sandbox /tmp 0:0\n" });
  expect(await shell(script, options)).toMatchObject({ stdout: "sandbox command / 65534:65534\n" });
});

test("stdin reaches the command, whole and with its end", async () => {
  const bytes = Buffer.alloc(300_000, "0123456789");

  expect(await sandbox.run("cat", [], { stdin: "hällo" })).toMatchObject({ stdout: "hällo" });
  expect(await sandbox.run("wc", ["-c"], { stdin: bytes })).toMatchObject({ stdout: "300000\n" });
  expect(await sandbox.run("cat")).toEqual({ exitCode: 0, stdout: "", stderr: "" });
});

test("a command that is not there is invalid_argument and named", async () => {
  const failed = sandbox.run("/no/such/command");

  await expect(failed).rejects.toMatchObject({ name: "CaissonError", code: "invalid_argument" });
  await expect(failed).rejects.toThrow("/no/such/command");
});

test.for([
  { what: "an unknown user", options: { user: "nobody-there" } },
  { what: "a relative directory", options: { cwd: "tmp" } },
  { what: "an option that is none", options: { timeout: 5 } as object },
  { what: "a time limit of 0", options: { timeoutMs: 0 } },
  { what: "a name with =", options: { env: { "a=b": "c" } } },
])("run refuses $what", async ({ options }) => {
  await expect(sandbox.run("true", [], options)).rejects.toMatchObject({ code: "invalid_argument" });
});

test("timeoutMs kills the command and keeps what it wrote", async () => {
  const failed = shell("echo before; sleep 1000", { timeoutMs: 1500 });

  await expect(failed).rejects.toBeInstanceOf(CommandError);
  await expect(failed).rejects.toMatchObject({ code: "deadline_exceeded", stdout: "before\n" });
  expect(await shell("ps | grep -c '[s]leep 1000'")).toMatchObject({ stdout: "0\n" });
});

test("a signal kills the command", async () => {
  const controller = new AbortController();
  const process = await sandbox.spawn("sh", ["-c", "echo ready; exec sleep 1000"], {
    signal: controller.signal,
  });
  process.stdout.once("data", () => controller.abort());

  await expect(process.wait()).rejects.toMatchObject({ code: "canceled" });
  await expect(sandbox.run("true", [], { signal: controller.signal })).rejects.toMatchObject({
    code: "canceled",
  });
});

test("more output than maxOutputBytes kills the command, and the beginning is kept", async () => {
  const failed = shell("yes", { maxOutputBytes: 10 });

  await expect(failed).rejects.toMatchObject({ code: "resource_exhausted", stdout: "y\ny\ny\ny\ny\n" });
  expect(await shell("printf 0123456789", { maxOutputBytes: 10 })).toMatchObject({ stdout: "0123456789" });
});

test("spawn streams both ways while the process runs, and says how it ended", async () => {
  const process = await sandbox.spawn("sh", ["-c", 'while read line; do echo "got $line"; done; exit 5']);
  const lines = process.stdout[Symbol.asyncIterator]();

  process.stdin.write("one\n");
  expect(String((await lines.next()).value)).toBe("got one\n");
  process.stdin.end("two\n");
  expect(String((await lines.next()).value)).toBe("got two\n");
  expect(await process.wait()).toEqual({ exitCode: 5 });
});

test("spawn with a terminal: its size, and a new one", async () => {
  const process = await sandbox.spawn("sh", ["-c", "stty size; read x; stty size"], {
    tty: { columns: 120, rows: 40 },
  });
  process.stdout.once("data", () => {
    void process.resize({ columns: 60, rows: 20 }).then(() => process.stdin.write("\n"));
  });

  expect(await text(process.stdout)).toBe("40 120\r\n\r\n20 60\r\n");
  expect(await process.wait()).toEqual({ exitCode: 0 });
});

test("kill sends a signal, and fails once the process has ended", async () => {
  const process = await sandbox.spawn("sh", [
    "-c",
    'trap "exit 7" TERM; echo ready; while :; do sleep 0.1; done',
  ]);
  process.stdout.once("data", () => void process.kill("SIGTERM"));

  expect(await process.wait()).toEqual({ exitCode: 7 });
  await expect(process.kill()).rejects.toMatchObject({ code: "not_found" });
});

test("commands run at the same time", async () => {
  const results = await Promise.all(["a", "b", "c", "d"].map((word) => sandbox.run("echo", [word])));

  expect(results.map(({ stdout }) => stdout)).toEqual(["a\n", "b\n", "c\n", "d\n"]);
});

test("limits hold for all processes together, and stats shows them", async () => {
  const stats = await sandbox.stats();

  expect(stats).toMatchObject({ memory: { limitBytes: 128 * 1024 ** 2 }, pids: { limit: 64 } });
  expect(stats.cpu.usageMicros).toBeGreaterThan(0);
});

test("nothing in the sandbox can end its first process", async () => {
  await shell("kill -TERM 1; kill -KILL 1; kill -INT 1");

  expect(await sandbox.run("echo", ["alive"])).toMatchObject({ stdout: "alive\n" });
});

test("a paused sandbox stands still and goes on", async () => {
  const process = await sandbox.spawn("sh", ["-c", "while :; do echo tick; sleep 0.1; done"]);
  await sandbox.pause();
  await expect(sandbox.run("true")).rejects.toMatchObject({ code: "failed_precondition" });
  await sandbox.resume();
  process.stdout.resume();
  await process.kill("SIGKILL");

  expect(await process.wait()).toEqual({ exitCode: 137 });
});

test("events tells of exits, with the process's id", async () => {
  const events = sandbox.events[Symbol.asyncIterator]();
  const process = await sandbox.spawn("sh", ["-c", "exit 9"]);

  expect(await events.next()).toEqual({
    done: false,
    value: { type: "exit", processId: process.id, exitCode: 9 },
  });
  await events.return?.();
});

test.for<{ what: string; options: SandboxOptions; code: string }>([
  { what: "neither image nor rootfs", options: {}, code: "invalid_argument" },
  { what: "both", options: { image, rootfs: "/" }, code: "invalid_argument" },
  { what: "an unknown option", options: { image, memory: 512 } as SandboxOptions, code: "invalid_argument" },
  { what: "little memory", options: { image, memoryMiB: 8 }, code: "invalid_argument" },
  { what: "an unknown user", options: { image, user: "nobody-there" }, code: "invalid_argument" },
  { what: "an image that is not there", options: { image: "oci:/no/such" }, code: "not_found" },
])("create refuses $what", async ({ options, code }) => {
  await expect(Sandbox.create({ onLog: () => {}, ...options })).rejects.toMatchObject({
    name: "CaissonError",
    code,
  });
});
