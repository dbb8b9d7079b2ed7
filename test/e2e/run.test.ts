import { afterAll, beforeAll, expect, test } from "vitest";
import { awaitSize, startOnPty } from "../support/cli-pty.ts";
import { type Containerd, isCaisson, startContainerd } from "../support/containerd.ts";
import { watchEvents } from "../support/containerd-events.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

/** How a container ends that prints "works"; stderr too, so that it is shown where it is not so. */
const works = { exitCode: 0, stdout: "works\n", stderr: "" };

let containerd: Containerd;
beforeAll(async () => {
  containerd = await startContainerd();
});
afterAll(() => containerd[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => containerd.leakScope(), { cleanUp: () => containerd.removeAll() });

const run = (flags: string[], name: string, ...command: string[]) =>
  containerd.ctr(containerd.runArgs(flags, containerd.id(name), ...command));

test("ctr run --rm prints the output of the command", async () => {
  const result = await run(["--rm"], "uname", "uname", "-a");

  expect(result).toMatchObject({ exitCode: 0, stderr: "" });
  expect(result.stdout).toMatch(/^Linux .+\n$/);
});

test.skipIf(!isCaisson)("the container has a kernel of its own", async () => {
  const host = await containerd.ctrOk(["version"]).then(() => import("node:os"));
  const result = await run(["--rm"], "kernel", "uname", "-r");

  expect(result.stdout.trim()).not.toBe(host.release());
});

test.for([0, 1, 7, 126, 255])("exit code %i comes through", async (code) => {
  const result = await run(["--rm"], `exit-${code}`, "sh", "-c", `exit ${code}`);

  expect(result).toMatchObject({ exitCode: code, stdout: "" });
});

test.for([
  { signal: 9, code: 137 },
  { signal: 15, code: 143 },
])("a command that signal $signal ends has exit code $code", async ({ signal, code }) => {
  // The container's init ignores signals from inside that it has no handler for: its child gets it.
  const script = `sh -c 'kill -${signal} $$'; exit $?`;
  const result = await run(["--rm"], `signal-${signal}`, "sh", "-c", script);

  expect(result.exitCode).toBe(code);
});

test("ctr run -t gives the command a terminal of the window's size", async () => {
  const argv = containerd.ctrArgv(...containerd.runArgs(["--rm", "-t"], containerd.id("tty"), "sh", "-c"));
  await using pty = startOnPty(`${argv.join(" ")} '${awaitSize("33 101")}; tty; exit 7'`, {
    columns: 101,
    rows: 33,
  });

  expect(await pty.exitCode).toBe(7);
  expect(pty.output).toMatch(/\/dev\/(pts\/\d+|console)\r*\n/);
});

test("ctr run -t: what is typed arrives, a new window size too", async () => {
  const argv = containerd.ctrArgv(...containerd.runArgs(["--rm", "-t"], containerd.id("typed"), "sh"));
  await using pty = startOnPty(argv.join(" "));

  await pty.shows(/[#$] /);
  pty.type("echo $((40 + 2))-typed\n");
  await pty.shows(/42-typed/);
  await pty.resize(120, 50);
  pty.type(`${awaitSize("50 120")}; echo re""sized; exit 3\n`);
  await pty.shows(/resized/);

  expect(await pty.exitCode).toBe(3);
});

test("a run's events come once each, in order", async () => {
  const id = containerd.id("events");
  await using stream = await watchEvents(containerd);
  await containerd.ctrOk(containerd.runArgs(["--rm"], id, "true"));
  await stream.waitFor((event) => event.topic === "/tasks/delete" && event.content["container_id"] === id);

  expect(stream.topicsOf(id)).toEqual(["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
});

test("a mount of the directory that holds the sandbox's own state works, and nothing is left", async () => {
  const mount = `type=bind,src=${containerd.dir.path},dst=/all,options=rbind:ro`;
  const result = await run(["--rm", "--mount", mount], "own-state", "ls", "/all");

  expect(result).toMatchObject({ exitCode: 0, stderr: "" });
  expect(result.stdout).toMatch(/^run$/m);
});

test("a missing command fails, names the command, and the id works again", async () => {
  const failed = await run(["--rm"], "missing", "/no/such/command");

  expect(failed.exitCode).not.toBe(0);
  expect(failed.stderr).toContain("/no/such/command");
  expect(await run(["--rm"], "missing", "echo", "works")).toMatchObject(works);
});

test("a missing command fails Create: no start and no exit event", async () => {
  const id = containerd.id("missing-events");
  await using stream = await watchEvents(containerd);
  await containerd.ctr(containerd.runArgs(["--rm"], id, "/no/such/command"));
  await stream.waitFor((event) => event.topic === "/containers/delete" && event.content["id"] === id);

  expect(stream.topicsOf(id).filter((topic) => /start|exit/.test(topic))).toEqual([]);
});
