import { once } from "node:events";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cli, createCli, image } from "../support/cli.ts";
import type { Running } from "../support/cli-run.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { markedProcesses } from "../support/leaks-processes.ts";
import { patient } from "../support/patience.ts";
import { vmmProgram } from "../support/suite-settings.ts";

let cli: Cli;
beforeAll(async () => {
  cli = await createCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

/** Starts a container in the background; disposing the result removes it. */
async function detach(name: string, ...command: string[]) {
  const id = cli.id(name);
  const result = await cli.run(["run", "-d", "--name", id, image, ...command]);
  expect(result).toMatchObject({ exitCode: 0, stdout: `${id}\n` });
  return { id, [Symbol.asyncDispose]: async () => void (await cli.run(["rm", "-f", id])) };
}

interface Row {
  readonly id: string;
  readonly status: string;
  readonly exitCode?: number;
}

async function list(...flags: string[]): Promise<Row[]> {
  return JSON.parse((await cli.run(["ps", "--json", ...flags])).stdout) as Row[];
}

test("-d, ps, exec, logs, stop, rm: a life in the background", async () => {
  await using container = await detach(
    "life",
    "sh",
    "-c",
    "trap 'echo stopped; exit 4' TERM; echo started; while :; do sleep 0.1; done",
  );
  expect(await list()).toMatchObject([{ id: container.id, status: "running" }]);
  expect((await cli.run(["ps"])).stdout).toContain(container.id);

  const exec = await cli.run([
    "exec",
    container.id,
    "sh",
    "-c",
    "echo out; echo err >&2; touch /made; exit 7",
  ]);
  expect(exec).toMatchObject({ exitCode: 7, stdout: "out\n", stderr: "err\n" });
  expect(await cli.run(["exec", container.id, "ls", "/made"])).toMatchObject({
    exitCode: 0,
    stdout: "/made\n",
  });
  expect(await cli.run(["exec", "-i", container.id, "wc", "-c"], { input: "12345" })).toMatchObject({
    stdout: "5\n",
  });
  expect(await cli.run(["exec", container.id, "/no/such/command"])).toMatchObject({ exitCode: 127 });

  expect((await cli.run(["rm", container.id])).exitCode).not.toBe(0);
  expect(await cli.run(["stop", container.id])).toMatchObject({ exitCode: 0 });
  expect(await cli.run(["stop", container.id])).toMatchObject({ exitCode: 0 });
  expect(await list()).toEqual([]);
  expect(await list("--all")).toMatchObject([{ id: container.id, status: "exited", exitCode: 4 }]);
  expect(await cli.run(["logs", container.id])).toMatchObject({ exitCode: 0, stdout: "started\nstopped\n" });
  expect((await cli.run(["exec", container.id, "true"])).exitCode).not.toBe(0);

  expect(await cli.run(["rm", container.id])).toMatchObject({ exitCode: 0 });
  expect(await list("--all")).toEqual([]);
  expect((await cli.run(["logs", container.id])).exitCode).not.toBe(0);
});

test("stop ends a command that ignores its signal by force", async () => {
  await using container = await detach("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done");
  const result = await cli.run(["stop", "-t", "1", container.id]);

  expect(result).toMatchObject({ exitCode: 0 });
  expect(await list("--all")).toMatchObject([{ id: container.id, status: "exited", exitCode: 137 }]);
});

test("a container that ended by itself shows its exit code and its output", async () => {
  await using container = await detach("ended", "sh", "-c", "seq 1 3; exit 9");
  const logs = await cli.run(["logs", "-f", container.id]);

  expect(logs).toMatchObject({ exitCode: 0, stdout: "1\n2\n3\n" });
  expect(await list("--all")).toMatchObject([{ id: container.id, status: "exited", exitCode: 9 }]);
});

test("an id that is in use is refused, and free again after rm", async () => {
  {
    await using container = await detach("twice", "sleep", "3600");
    const second = await cli.run(["run", "--rm", "--name", container.id, image, "true"]);

    expect(second).toMatchObject({ exitCode: 125 });
    expect(second.stderr).toContain(container.id);
    expect(await list()).toMatchObject([{ id: container.id, status: "running" }]);
  }
  expect(await cli.run(["run", "--rm", "--name", cli.id("twice"), image, "echo", "works"])).toMatchObject({
    stdout: "works\n",
  });
});

test.for([
  { signal: "SIGINT", code: 42 },
  { signal: "SIGTERM", code: 43 },
  { signal: "SIGHUP", code: 44 },
  { signal: "SIGUSR1", code: 45 },
] as const)("$signal to the command line reaches the container", async ({ signal, code }) => {
  const name = signal.slice(3);
  const script = `trap 'exit ${code}' ${name}; echo ready; while :; do sleep 0.1; done`;
  await using running = cli.start(["run", "--rm", image, "sh", "-c", script], { timeoutMs: 30_000 });
  await firstOutput(running);
  running.child.kill(signal);

  expect(await running.ended).toMatchObject({ exitCode: code });
});

test("a signal while the VM boots ends the command line, and nothing is left", async () => {
  await using running = cli.start(["run", "--rm", image, "sleep", "3600"]);
  await appears(new RegExp(vmmProgram));
  running.child.kill("SIGINT");
  const end = await running.ended;

  expect(end.timedOut).toBe(false);
  expect(end.exitCode).toBe(130);
});

test("SIGKILL of the command line: the container can be removed, and nothing is left", async () => {
  const id = cli.id("abandoned");
  await using running = cli.start(["run", "--name", id, image, "sh", "-c", "echo ready; sleep 3600"]);
  await firstOutput(running);
  running.child.kill("SIGKILL");
  await running.ended;

  expect(await cli.run(["rm", "-f", id])).toMatchObject({ exitCode: 0 });
});

test("SIGKILL of the VMM ends the command line with an error, and the same id works", async () => {
  const name = ["--name", cli.id("vm")];
  {
    await using running = cli.start(["run", "--rm", ...name, image, "sh", "-c", "echo ready; sleep 3600"]);
    await firstOutput(running);
    const [vmm = 0] = await appears(new RegExp(vmmProgram));
    process.kill(vmm, "SIGKILL");

    expect(await running.ended).toMatchObject({ exitCode: 255 });
  }
  expect(await cli.run(["run", "--rm", ...name, image, "echo", "works"])).toMatchObject({
    exitCode: 0,
    stdout: "works\n",
  });
});

test("SIGKILL of the daemon ends the command line, and the same id works", async () => {
  const name = ["--name", cli.id("daemon")];
  {
    await using running = cli.start(["run", "--rm", ...name, image, "sh", "-c", "echo ready; sleep 3600"]);
    await firstOutput(running);
    const daemons = markedProcesses({ marks: [cli.dir.token] }, /^\S*containerd-shim-caisson-v2\b/);
    expect(daemons).not.toEqual([]);
    for (const pid of daemons) process.kill(pid, "SIGKILL");
    const end = await running.ended;

    expect(end.timedOut).toBe(false);
    expect(end.exitCode).not.toBe(0);
  }
  expect(await cli.run(["run", "--rm", ...name, image, "echo", "works"])).toMatchObject({
    exitCode: 0,
    stdout: "works\n",
  });
});

async function firstOutput(running: Running): Promise<void> {
  await Promise.race([
    once(running.stdout, "data"),
    running.ended.then((end) => expect(end).toBe("running")),
  ]);
}

/** Resolves with the pids of this test's processes that match, once there are any; nothing tells of a birth. */
async function appears(pattern: RegExp): Promise<number[]> {
  for (const end = performance.now() + patient(30_000); performance.now() < end; ) {
    const pids = markedProcesses({ marks: [cli.dir.token] }, pattern);
    if (pids.length > 0) return pids;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`No process matches ${pattern} within 30 s`);
}
