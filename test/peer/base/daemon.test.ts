import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { type DaemonSpec, startDaemon } from "../../../src/base/daemon.ts";
import { identify, isAlive, type ProcessIdentity, signalProcess } from "../../../src/base/processes.ts";
import { createTempDir } from "../../support/temp-dir.ts";
import { withoutInherited } from "./inherited.ts";

const privileges = { capabilities: [] };
const sh = (script: string, more: Partial<DaemonSpec> = {}): DaemonSpec => ({
  name: "helper",
  argv: ["sh", "-c", script],
  privileges,
  cwd: "/",
  ...more,
});

const waitFor = (path: string) => expect.poll(() => readdirSync(path).length).toBeGreaterThan(0);

test("stop() asks with SIGTERM, and a daemon that takes it ends by itself", async () => {
  await using dir = createTempDir();
  await using daemon = await startDaemon(
    sh("trap 'echo bye >&2; exit 3' TERM; touch up; while :; do sleep 0.01; done", { cwd: dir.path }),
  );
  await waitFor(dir.path);
  expect(isAlive(daemon.identity)).toBe(true);
  expect(daemon.lastWords()).toBe("helper is running");

  await Promise.all([daemon.stop(10_000), daemon.stop(10_000)]);

  expect(await daemon.exited).toEqual({ exitCode: 3, signal: null });
  expect(daemon.lastWords()).toBe("helper exited with code 3, its last words: bye");
  expect(daemon.hasExited).toBe(true);
  expect(identify(daemon.identity.pid)).toBeUndefined();
});

test("stop() kills a daemon that ignores SIGTERM once its time of grace is over", async () => {
  await using dir = createTempDir();
  await using daemon = await startDaemon(
    sh("trap '' TERM; touch up; while :; do sleep 0.01; done", { cwd: dir.path }),
  );
  await waitFor(dir.path);

  await daemon.stop(50);

  expect(await daemon.exited).toEqual({ exitCode: null, signal: "SIGKILL" });
  expect(daemon.lastWords()).toBe("helper was killed by SIGKILL");
});

test("stop() kills a daemon that is stopped, at once without time of grace", async () => {
  await using daemon = await startDaemon(sh("sleep 60"));
  daemon.kill("SIGSTOP");

  await daemon.stop(0);
  await daemon.stop(0);

  expect(daemon.hasExited).toBe(true);
});

test("the last words are those just before the end: the last lines of both outputs, escaped and bounded", async () => {
  await using daemon = await startDaemon(
    sh(String.raw`seq 100000; head -c 20000 /dev/zero | tr '\0' x; printf '\n\033[2J why \n' >&2; exit 1`),
  );

  await daemon.exited;

  const words = daemon.lastWords();
  expect(words).toMatch(/^helper exited with code 1, its last words: /);
  expect(words).toContain(String.raw`\u001b[2J why`);
  expect(words.length).toBeLessThan(7_000);
});

test("exited does not wait for a child that holds the output, and the descriptors are given back", async () => {
  const before = readdirSync("/proc/self/fd").length;
  const daemon = await startDaemon(sh("sleep 60 & echo $! >&2; exit 4"));

  await daemon.exited;

  expect(daemon.lastWords()).toMatch(/code 4, its last words: \d+$/);
  process.kill(Number(/\d+$/.exec(daemon.lastWords())?.[0]), "SIGKILL");
  await expect.poll(() => readdirSync("/proc/self/fd").length).toBe(before);
});

test("a daemon has the minimal environment, no capability, no new privileges, and the descriptors meant for it", async () => {
  await using dir = createTempDir();
  const extra = openSync(dir.join("extra"), "w");
  const script =
    "ls /proc/self/fd | tr '\\n' ' ' >fds; env >env; grep -E '^(Cap|NoNewPrivs|Uid|Groups)' /proc/self/status >status; echo via 4 >&4; read line <&3; echo $line >line";
  await using daemon = await startDaemon(sh(script, { cwd: dir.path, fds: ["socket", extra] }));
  closeSync(extra);
  daemon.sockets[0]?.write("via 3\n");
  await daemon.exited;

  const read = (name: string) => readFileSync(dir.join(name), "utf8");
  // 5 is the directory that `ls` reads.
  expect(withoutInherited(read("fds").trim().split(" "))).toEqual(["0", "1", "2", "3", "4", "5"]);
  expect(read("line")).toBe("via 3\n");
  expect(read("extra")).toBe("via 4\n");
  expect(
    read("env")
      .split("\n")
      .map((line) => line.split("=")[0])
      .filter((name) => !["PWD", "_", "SHLVL", "OLDPWD", ""].includes(name ?? "")),
  ).toEqual(expect.arrayContaining(["LANG", "PATH"]));
  expect(read("env")).not.toContain("CAISSON");
  expect(read("env")).not.toContain("VITEST");
  const status = read("status");
  expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  for (const set of ["CapInh", "CapBnd", "CapAmb"]) expect(status).toMatch(new RegExp(`^${set}:\t0+$`, "m"));
});

test("a daemon with a user of its own has nothing of root", async () => {
  await using dir = createTempDir();
  execFileSync("chmod", ["0777", dir.path]);
  await using daemon = await startDaemon(
    sh("cat /proc/self/status >status", {
      cwd: dir.path,
      privileges: { user: { uid: 700_001, gid: 700_002 }, groups: [700_003], capabilities: [] },
    }),
  );
  await daemon.exited;

  const status = readFileSync(dir.join("status"), "utf8");
  expect(status).toMatch(/^Uid:\t700001\t700001\t700001\t700001$/m);
  expect(status).toMatch(/^Gid:\t700002\t700002\t700002\t700002$/m);
  expect(status).toMatch(/^Groups:\t700003 $/m);
  expect(status).toMatch(/^CapEff:\t0+$/m);
});

test("a daemon dies with the process that started it, also when that is killed", async () => {
  await using dir = createTempDir();
  const source = fileURLToPath(new URL("../../../src/base/daemon.ts", import.meta.url));
  const script = `
    import { startDaemon } from ${JSON.stringify(source)};
    const daemon = await startDaemon({ name: "x", argv: ["sleep", "60"], privileges: { user: { uid: 700001, gid: 700001 }, capabilities: [] }, cwd: "/" });
    console.log(JSON.stringify(daemon.identity));
    setInterval(() => {}, 1000);`;
  writeFileSync(dir.join("parent.ts"), script);
  const parent = spawn(process.execPath, [dir.join("parent.ts")], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(parent.stdout, "data")) as [Buffer];
  const identity = JSON.parse(line.toString()) as ProcessIdentity;
  expect(isAlive(identity)).toBe(true);

  parent.kill("SIGKILL");

  await once(parent, "exit");
  await expect.poll(() => isAlive(identity)).toBe(false);
});

test("startDaemon() of a program that is not there: it ends, and says so", async () => {
  await using daemon = await startDaemon(sh("", { argv: ["/nonexistent/qemu"] }));

  await daemon.exited;

  expect(daemon.lastWords()).toMatch(/^helper exited with code 127, its last words: .*\/nonexistent\/qemu/);
});

test("startDaemon() in a directory that is not there is unavailable", async () => {
  await expect(startDaemon(sh("true", { cwd: "/nonexistent" }))).rejects.toMatchObject({
    code: "unavailable",
    message: "Cannot start helper",
  });
});

test("startDaemon() without a free descriptor is resource_exhausted, and the process goes on", async () => {
  await using dir = createTempDir();
  const source = fileURLToPath(new URL("../../../src/base/daemon.ts", import.meta.url));
  // In a process of its own, with a limit of its own.
  const script = `
    import { openSync } from "node:fs";
    import { startDaemon } from ${JSON.stringify(source)};
    const open = [];
    const start = () => startDaemon({ name: "helper", argv: ["true"], privileges: { capabilities: [] }, cwd: "/", fds: ["socket"] });
    try { for (;;) open.push(openSync("/dev/null")); } catch {}
    const error = await start().catch((reason) => reason);
    console.log(error.code, error.message);`;
  writeFileSync(dir.join("starved.ts"), script);

  const output = execFileSync("prlimit", ["--nofile=64:64", process.execPath, dir.join("starved.ts")]);

  expect(output.toString()).toBe("resource_exhausted Cannot start helper\n");
});

test("a process is known by its start, too: another one with its pid is not it", async () => {
  const child = spawn("sleep", ["60"]);
  const identity = identify(child.pid ?? 0);
  expect(identity).toBeDefined();
  const impostor = { pid: identity?.pid ?? 0, startTicks: "1" };

  expect(isAlive(impostor)).toBe(false);
  expect(signalProcess(impostor, "SIGKILL")).toBe(false);
  expect(isAlive(identity as ProcessIdentity)).toBe(true);
  expect(signalProcess(identity as ProcessIdentity, "SIGKILL")).toBe(true);
  await once(child, "exit");
  expect(signalProcess(identity as ProcessIdentity, "SIGKILL")).toBe(false);
});

test("identify() takes a zombie for gone, and reads names with spaces and parentheses", async () => {
  await using dir = createTempDir();
  const name = "a) Z 1 (b";
  execFileSync("cp", ["/bin/sleep", dir.join(name)]);
  const child = spawn(dir.join(name), ["60"]);
  expect(identify(child.pid ?? 0)?.startTicks).toMatch(/^\d{2,}$/);
  child.kill("SIGKILL");
  await once(child, "exit");

  // A shell that does not reap its child.
  const parent = spawn("sh", ["-c", "sleep 0 & echo $!; exec sleep 60"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [line] = (await once(parent.stdout, "data")) as [Buffer];
  await expect.poll(() => identify(Number(line.toString()))).toBeUndefined();
  expect(readFileSync(`/proc/${line.toString().trim()}/stat`, "utf8")).toContain(") Z ");
  parent.kill("SIGKILL");
  await once(parent, "exit");
  expect(identify(0)).toBeUndefined();
  expect(identify(-1)).toBeUndefined();
});

test("a listening socket is handed over as descriptor 3", async () => {
  await using dir = createTempDir();
  const server = createServer().listen(dir.join("socket"));
  await once(server, "listening");
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  await using daemon = await startDaemon(sh("readlink /proc/self/fd/3 >&2", { fds: [fd] }));

  await daemon.exited;

  expect(daemon.lastWords()).toMatch(/last words: socket:\[\d+\]$/);
  const client = createConnection(dir.join("socket"));
  await once(client, "connect");
  client.destroy();
  server.close();
});
