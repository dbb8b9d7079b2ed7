import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { testAll } from "../support/cli-level.ts";
import { startOnPty } from "../support/cli-pty.ts";
import { runOk } from "../support/cli-run.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { buildNotifier, listenForNotifications } from "../support/notify-host.ts";
import { busybox, createPodman, type Podman } from "../support/podman.ts";
import { withOpenFiles } from "../support/service-manager.ts";

/** Says to each client of its socket how many there are, and for whom. */
const activatedService = `
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
  for (int client; (client = accept(3, NULL, NULL)) >= 0; close(client))
    dprintf(client, "%s %s\\n", getenv("LISTEN_FDS"), getenv("LISTEN_PID"));
}`;

const waitFor = { timeout: 60_000, interval: 100 };

let podman: Podman;
beforeAll(async () => {
  podman = await createPodman();
});
afterAll(() => podman?.[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => podman.leakScope(), { cleanUp: () => podman.removeAll() });

const state = async (name: string) =>
  JSON.parse(await podman.ok(["inspect", name, "--format", "{{json .State}}"])) as {
    readonly Status: string;
    readonly ExitCode: number;
    readonly Pid: number;
    readonly OOMKilled: boolean;
  };
const shows = (name: string, text: string) =>
  vi.waitFor(async () => expect(await podman.ok(["logs", name])).toContain(text), waitFor);

test("run: stdin, stdout, stderr and the exit code; 127 and 126 for programs that cannot be run", async () => {
  const script = "read line; echo out $line; echo err >&2; exit 7";

  const result = await podman.podman(["run", "--rm", "-i", busybox, "sh", "-c", script], {
    input: "hello\n",
  });

  expect(result).toMatchObject({ exitCode: 7, stdout: "out hello\n", stderr: "err\n" });
  expect(await podman.podman(["run", "--rm", busybox, "/no/such/command"])).toMatchObject({
    exitCode: 127,
    stderr: expect.stringContaining("executable file not found in $PATH"),
  });
  expect(await podman.podman(["run", "--rm", busybox, "/etc"])).toMatchObject({ exitCode: 126 });
});

test("run -d, logs, exec, top, cp, healthcheck, pause, stop, wait, start, kill, rm", async () => {
  const script = "echo up; trap 'echo bye; exit 3' TERM; while :; do sleep 0.2; done";
  const health = ["--health-cmd", "test -e /tmp/in", "--health-interval", "0"];
  await podman.ok(["run", "-d", "--name", "life", ...health, busybox, "sh", "-c", script]);
  await shows("life", "up");

  const exec = ["exec", "-i", "--user", "1000", "--env", "A=b", "--workdir", "/tmp", "life"];
  const inside = await podman.podman([...exec, "sh", "-c", 'read x; echo "$x|$A|$(pwd)|$(id -u)"; exit 5'], {
    input: "in\n",
  });
  expect(inside).toMatchObject({ exitCode: 5, stdout: "in|b|/tmp|1000\n" });
  expect(await podman.ok(["top", "life", "-o", "pid,comm"])).toMatch(/^ *1 sh$/m);
  expect(await podman.ok(["top", "life"])).toMatch(
    /^root +1 +0 .* sh -c echo up; trap [^\n]*\n.* sleep 0\.2 *$/m,
  );
  expect(await podman.ok(["top", "life", "pid", "hpid", "user", "comm"])).toMatch(
    new RegExp(`^1 +${(await state("life")).Pid} +root +sh *$`, "m"),
  );

  const [file, back] = [podman.dir.join("file"), podman.dir.join("back")];
  writeFileSync(file, "copied\n");
  expect(await podman.podman(["healthcheck", "run", "life"])).toMatchObject({ exitCode: 1 });
  await podman.ok(["cp", file, "life:/tmp/in"]);
  expect(await podman.ok(["exec", "life", "sh", "-c", "cat /tmp/in; echo made >/tmp/out"])).toBe("copied");
  await podman.ok(["cp", "life:/tmp/out", back]);
  expect(readFileSync(back, "utf8")).toBe("made\n");
  await podman.ok(["healthcheck", "run", "life"]);

  await podman.ok(["pause", "life"]);
  expect(await state("life")).toMatchObject({ Status: "paused" });
  await podman.ok(["unpause", "life"]);
  await podman.ok(["stop", "--time", "60", "life"]);
  expect(await podman.ok(["wait", "life"])).toBe("3");
  expect(await podman.ok(["logs", "life"])).toBe("up\nbye");
  await podman.ok(["start", "life"]);
  expect(await state("life")).toMatchObject({ Status: "running", Pid: expect.any(Number) });
  await podman.ok(["kill", "life"]);
  expect(await podman.ok(["wait", "life"])).toBe("137");
  await podman.ok(["rm", "life"]);
  expect(await podman.ok(["ps", "--all", "--quiet"])).toBe("");
});

test("run -it: a terminal with the size of the caller's, Ctrl-C, and the exit code", async () => {
  const argv = podman.argv("run", "--rm", "-it", "--name", "term", busybox, "sh");
  await using pty = startOnPty(argv.map((word) => `'${word}'`).join(" "), { columns: 77, rows: 33 });

  await pty.shows(/\/ # /);
  pty.type("until [ \"$(stty size)\" = '33 77' ]; do sleep 0.1; done; echo size-$((20 + 22)); tty\r");
  await pty.shows(/size-42/);
  await pty.shows(/\/dev\/pts\/0/);
  pty.type("sleep 1000 || echo inter$((1))rupted\r");
  await vi.waitFor(async () => {
    expect(await podman.ok(["top", "term", "-o", "args"])).toContain("sleep 1000");
  }, waitFor);
  pty.type("\u0003");
  pty.type("exit 9\r");

  expect(await pty.exitCode).toBe(9);
});

test("a network with a published port and names, volumes, limits, a user and a read-only root", async () => {
  const shared = podman.dir.join("shared");
  mkdirSync(shared);
  writeFileSync(`${shared}/index.html`, "served\n");
  const network = `${podman.dir.token}n`;
  await podman.ok(["network", "create", "--subnet", "10.77.0.0/24", network]);
  const limits = ["--memory", "100m", "--cpus", "1.5", "--pids-limit", "50"];
  const mounts = ["--volume", `${shared}:/www:ro`, "--volume", "kept:/kept"];
  const options = [...limits, ...mounts, "--network", network, "--publish", "18080:8080"];
  const who = ["--user", "1000:1000", "--read-only"];
  const script = "touch /x || echo read-only; touch /www/x || echo no; id -u; httpd -f -p 8080 -h /www";
  await podman.ok(["run", "-d", "--name", "web", ...options, ...who, busybox, "sh", "-c", script]);
  await shows("web", "1000");
  expect((await podman.podman(["logs", "web"])).stdout).toBe("read-only\nno\n1000\n");

  const fetch = "until wget -q -O - http://web:8080/; do sleep 0.2; done; echo kept >/kept/file";
  const other = ["run", "--rm", "--network", network, "--volume", "kept:/kept", busybox, "sh", "-c", fetch];
  expect(await podman.ok(other)).toBe("served");
  const published = await podman.onHost(["wget", "-q", "-O", "-", "http://127.0.0.1:18080/"]);
  expect(published).toMatchObject({ exitCode: 0, stdout: "served\n" });
  expect(await podman.ok(["exec", "web", "cat", "/kept/file"])).toBe("kept");
  // What the VM takes on the host: more than what the container has touched.
  const [memory = "", processes = ""] = await podman
    .ok(["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "web"])
    .then((line) => [line.split("MB")[0], line.split(" ").at(-1)]);
  expect(Number(memory)).toBeGreaterThan(60);
  expect(Number(processes)).toBeGreaterThan(3);

  await podman.ok(["rm", "--force", "--time", "0", "web"]);
  await podman.ok(["network", "rm", network]);
});

test("a pod's containers are in one sandbox: they share its network", async () => {
  const infra = ["--infra-image", busybox, "--infra-command", "sleep 1000"];
  await podman.ok(["pod", "create", "--name", "pod", "--publish", "18081:80", ...infra]);
  const serve = "echo one >/tmp/index.html; httpd -f -p 80 -h /tmp";
  await podman.ok(["run", "-d", "--pod", "pod", "--name", "one", busybox, "sh", "-c", serve]);
  const fetch = "until wget -q -O - http://127.0.0.1/; do sleep 0.2; done";

  expect(await podman.ok(["run", "--rm", "--pod", "pod", busybox, "sh", "-c", fetch])).toBe("one");
  const published = await podman.onHost(["wget", "-q", "-O", "-", "http://127.0.0.1:18081/"]);
  expect(published).toMatchObject({ stdout: "one\n" });
  await podman.ok(["pod", "stop", "--time", "0", "pod"]);
  expect(await state("one")).toMatchObject({ Status: "exited" });
});

testAll("with the network, the PIDs and the IPC of another container a container is in its VM", async () => {
  await podman.ok(["run", "-d", "--name", "first", busybox, "sleep", "1000"]);
  const shared = ["--network", "container:first", "--pid", "container:first", "--ipc", "container:first"];
  const serve = "echo shared >/tmp/index.html; exec httpd -f -p 80 -h /tmp";
  await podman.ok(["run", "-d", "--name", "second", ...shared, busybox, "sh", "-c", serve]);
  const fetch = "until wget -q -O - http://127.0.0.1/; do sleep 0.2; done";

  // Of a container that has its network from another one itself.
  expect(await podman.ok(["run", "--rm", "--network", "container:second", busybox, "sh", "-c", fetch])).toBe(
    "shared",
  );
  expect(await podman.ok(["exec", "second", "ps", "-o", "comm"])).toMatch(/^sleep\n[^]*httpd$/m);
  expect(await podman.podman(["run", "--rm", "--pid", "container:first", busybox, "true"])).toMatchObject({
    exitCode: 126,
    stderr: expect.stringContaining("is not of its sandbox"),
  });
  await podman.ok(["rm", "--force", "--time", "0", "second"]);
  expect(await podman.ok(["exec", "first", "echo", "still"])).toBe("still");
  await podman.removeAll();
});

testAll("LISTEN_FDS: the container serves a socket of Podman's caller", async () => {
  const [program, path] = [podman.dir.join("serve"), podman.dir.join("served.sock")];
  writeFileSync(`${program}.c`, activatedService);
  execFileSync("gcc", ["-static", "-O1", "-o", program, `${program}.c`]);
  const launcher = withOpenFiles([{ kind: "unix", path }]);
  const container = ["run", "-d", "--name", "served", "--volume", `${program}:/serve:ro`, busybox, "/serve"];
  await runOk([...launcher, ...podman.argv(...container)]);

  expect(await text(connect(path))).toBe("1 1\n");
  await podman.removeAll();
});

testAll("a kill for want of memory is told, a restart policy is followed", async () => {
  const hungry = ["run", "--memory", "40m", "--name", "hungry", busybox, "tail", "/dev/zero"];
  expect(await podman.podman(hungry)).toMatchObject({ exitCode: 137 });
  expect(await state("hungry")).toMatchObject({ OOMKilled: true, ExitCode: 137 });

  const failing = ["run", "-d", "--name", "failing", "--restart", "on-failure:2", busybox];
  await podman.ok([...failing, "sh", "-c", "echo again; exit 1"]);
  await vi.waitFor(
    async () => expect(await podman.ok(["logs", "failing"])).toBe("again\nagain\nagain"),
    waitFor,
  );
  await vi.waitFor(async () => expect(await state("failing")).toMatchObject({ Status: "exited" }), waitFor);
});

testAll("what a VM cannot have is refused with a reason; an init and no network work", async () => {
  for (const [flag, reason] of [
    ["--network=host", "it has no network namespace of its own"],
    ["--pid=host", "it has no pid namespace of its own"],
  ] as const) {
    expect(await podman.podman(["run", "--rm", flag, busybox, "true"])).toMatchObject({
      exitCode: 126,
      stderr: expect.stringContaining(reason),
    });
  }
  expect(await podman.ok(["run", "--rm", "--init", busybox, "ps", "-o", "pid,comm"])).toMatch(/^ *1 .*init/m);
  const links = await podman.ok(["run", "--rm", "--network", "none", busybox, "ip", "-o", "addr"]);
  expect(links).not.toMatch(/inet (?!127\.)/);
});

testAll("sd_notify: Podman says when the container runs, or hands on what the container says", async () => {
  const socket = podman.dir.join("notify.sock");
  buildNotifier(podman.dir.join("notify"));
  await using manager = await listenForNotifications(socket);
  const mount = ["--volume", `${podman.dir.join("notify")}:/notify:ro`];
  const run = (mode: string, ...command: string[]) =>
    podman.ok(["run", "-d", `--sdnotify=${mode}`, ...mount, busybox, ...command], {
      env: { NOTIFY_SOCKET: socket },
    });

  await run("conmon", "sleep", "1000");
  expect(await manager.next()).toMatch(/^MAINPID=\d+\|READY=1$/);
  await run("container", "/notify", "STATUS=starting", "READY=1\nMAINPID=1");
  const said = [await manager.next(), await manager.next()];
  expect(said.toSorted()).toEqual([expect.stringMatching(/^MAINPID=(?!1$)\d+$/), "READY=1"]);
  await podman.removeAll();
});

testAll(
  "a privileged container has the guest's devices and all capabilities, an exec in another all as well",
  async () => {
    const script = "mkdir -p /m && mount -t tmpfs none /m && ls /dev/vda && grep CapEff /proc/self/status";
    const whole = /^\/dev\/vda\nCapEff:\t000001f\w{9}$/;
    expect(await podman.ok(["run", "--rm", "--privileged", busybox, "sh", "-c", script])).toMatch(whole);

    await podman.ok(["run", "-d", "--name", "plain", busybox, "sleep", "1000"]);
    const capabilities = ["plain", "grep", "CapEff", "/proc/self/status"];
    expect(await podman.ok(["exec", "--privileged", ...capabilities])).toMatch(/^CapEff:\t000001f/);
    expect(await podman.ok(["exec", ...capabilities])).toMatch(/^CapEff:\t0000000/);
    await podman.removeAll();
  },
);

testAll("pods: pause, unpause, kill, start, stats, and Kubernetes YAML there and back", async () => {
  const file = podman.dir.join("pod.yaml");
  const serve = ["sh", "-c", "echo served >/tmp/index.html; httpd -f -p 80 -h /tmp"];
  const containers = [
    { name: "web", image: busybox, command: serve },
    { name: "side", image: busybox, command: ["sleep", "1000"] },
  ];
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "whole" }, spec: { containers } };
  writeFileSync(file, JSON.stringify(pod));
  const is = async (wanted: string) =>
    expect(await podman.ok(["pod", "inspect", "whole", "--format", "{{.State}}"])).toBe(wanted);

  await podman.ok(["play", "kube", file]);
  await is("Running");
  const fetch = "until wget -q -O - http://127.0.0.1/; do sleep 0.2; done";
  expect(await podman.ok(["exec", "whole-side", "sh", "-c", fetch])).toBe("served");
  expect(await podman.ok(["pod", "stats", "--no-stream", "whole"])).toContain("whole-side");
  await podman.ok(["pod", "pause", "whole"]);
  await is("Paused");
  await podman.ok(["pod", "unpause", "whole"]);
  await podman.ok(["pod", "kill", "whole"]);
  await vi.waitFor(() => is("Exited"), waitFor);
  await podman.ok(["pod", "start", "whole"]);
  expect(await podman.ok(["exec", "whole-side", "sh", "-c", fetch])).toBe("served");
  expect(await podman.ok(["generate", "kube", "whole"])).toMatch(/name: (?:whole-)?side$/m);
  await podman.ok(["play", "kube", "--down", file]);
  expect(await podman.ok(["ps", "--all", "--quiet"])).toBe("");
});

testAll("update, commit, export, diff, rename, restart, init, start --attach, mount", async () => {
  await podman.ok(["run", "-d", "--name", "first", busybox, "sh", "-c", "echo made >/file; exec sleep 1000"]);
  await vi.waitFor(async () => expect(await podman.ok(["diff", "first"])).toContain("A /file"), waitFor);
  await podman.ok(["commit", "--quiet", "first", "localhost/made"]);
  expect(await podman.ok(["run", "--rm", "localhost/made", "cat", "/file"])).toBe("made");
  expect(readFileSync(`${await podman.ok(["mount", "first"])}/file`, "utf8")).toBe("made\n");
  await podman.ok(["umount", "first"]);
  await podman.ok(["export", "--output", podman.dir.join("exported.tar"), "first"]);
  await podman.ok(["update", "--cpus", "0.5", "first"]);
  const limit = "cat /sys/fs/cgroup$(cut -d : -f 3 /proc/self/cgroup)/cpu.max";
  expect(await podman.ok(["exec", "first", "sh", "-c", limit])).toBe("50000 100000");
  await podman.ok(["rename", "first", "second"]);
  await podman.ok(["restart", "--time", "0", "second"]);
  expect(await podman.ok(["exec", "second", "cat", "/file"])).toBe("made");

  await podman.ok(["create", "--name", "third", busybox, "echo", "attached"]);
  await podman.ok(["init", "third"]);
  expect(await podman.ok(["start", "--attach", "third"])).toBe("attached");
  await podman.removeAll();
  await podman.ok(["rmi", "--force", "localhost/made"]);
});
