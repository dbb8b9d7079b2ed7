import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { start } from "../support/cli-run.ts";
import { busyboxImage, type Cri, type Handler, startCri } from "../support/cri.ts";
import { type Pod, runPod } from "../support/cri-pod.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

let cri: Cri;
beforeAll(async () => {
  cri = await startCri();
});
afterAll(() => cri[Symbol.asyncDispose]());

const forever = ["sleep", "3600"];

/** The lines of a container's log as CRI writes it: "<time> <stream> <F or P> <text>". */
const logLines = (path: string, stream: "stdout" | "stderr") =>
  readFileSync(path, "utf8")
    .split("\n")
    .map((line) => / (stdout|stderr) [FP] (.*)$/.exec(line))
    .filter((match) => match?.[1] === stream)
    .map((match) => match?.[2]);

describe.for(["caisson", "caisson-shim"] satisfies Handler[])("a pod of the handler %s", (handler) => {
  let pod: Pod;
  beforeAll(async () => {
    pod = await runPod(cri, handler, { hostname: "pod-name", dns_config: { servers: ["10.9.8.7"] } });
  });
  afterAll(() => pod[Symbol.asyncDispose]());
  // What a first container makes for good (directories, the daemon's connection for events) is no leak of the next.
  beforeAll(async () => {
    await using _first = await pod.start("first", ["true"]);
  });
  checkLeaksAroundEachTest(() => cri.leakScope());

  test("its containers share VM, network and name, and have processes of their own", async () => {
    await using one = await pod.start("one", ["httpd", "-f", "-p", "127.0.0.1:8000", "-h", "/etc"]);
    await using two = await pod.start("two", forever);

    const script = "cat /proc/sys/kernel/random/boot_id; hostname; cat /etc/resolv.conf";
    const [ofOne, ofTwo] = await Promise.all([one.exec("sh", "-c", script), two.exec("sh", "-c", script)]);
    expect(ofTwo.stdout).toBe(ofOne.stdout);
    expect(ofOne.stdout).toMatch(/^[0-9a-f-]{36}\npod-name\nnameserver 10.9.8.7\n$/);
    const fetched = await two.exec("wget", "-q", "-O", "-", "http://localhost:8000/hostname");
    expect(fetched).toMatchObject({ exitCode: 0, stdout: "pod-name\n" });
    expect((await two.exec("ps")).stdout).not.toContain("httpd");
  });

  test("a container that crashes leaves the others alone", async () => {
    await using other = await pod.start("other", forever);
    await using crashing = await pod.start("crashing", ["sh", "-c", "exit 3"]);

    expect(await crashing.ended()).toMatchObject({ exitCode: 3, reason: "Error" });
    expect(await other.exec("echo", "works")).toMatchObject({ exitCode: 0, stdout: "works\n" });
    expect(await other.status()).toMatchObject({ state: "CONTAINER_RUNNING" });
  });

  test("a container that is stuck leaves the others alone: exec, logs and stop go on", async () => {
    await using deaf = await pod.start("deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    const script = "trap 'echo bye; exit 7' TERM; seq 1 1000; while :; do sleep 1; done";
    await using other = await pod.start("beside", ["sh", "-c", script]);
    // Its output is never read.
    await using _unread = start(cri.crictlArgv("exec", deaf.id, "cat", "/dev/zero"));
    const stopping = cri.crictlOk(["stop", "--timeout", "200", deaf.id]);

    expect(await other.exec("echo", "works")).toMatchObject({ exitCode: 0, stdout: "works\n" });
    await using crashing = await pod.start("crashing-beside", ["sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"]);
    expect(await crashing.ended()).toMatchObject({ exitCode: 139 });
    await cri.crictlOk(["stop", "--timeout", "200", other.id]);
    expect(await other.status()).toMatchObject({ state: "CONTAINER_EXITED", exitCode: 7 });
    expect(logLines(other.logPath, "stdout")).toHaveLength(1001);

    expect(await deaf.status()).toMatchObject({ state: "CONTAINER_RUNNING" });
    await cri.crictlOk(["stop", "--timeout", "0", deaf.id]);
    await stopping;
    expect(await deaf.status()).toMatchObject({ state: "CONTAINER_EXITED", exitCode: 137 });
  });

  test("a command that is not there fails the start and names it", async () => {
    await using container = await pod.create("missing", ["/no/such/command"]);
    const started = await cri.crictl(["start", container.id]);

    expect(started.stderr).toContain("/no/such/command");
    expect(await container.status()).toMatchObject({ exitCode: 128, reason: "StartError" });
  });

  test("the log has all that was written, in order, when the container has ended", async () => {
    await using container = await pod.start("log", ["sh", "-c", "echo problem >&2; seq 1 20000"]);
    expect(await container.ended()).toMatchObject({ exitCode: 0, reason: "Completed" });

    expect(logLines(container.logPath, "stderr")).toEqual(["problem"]);
    const numbers = Array.from({ length: 20_000 }, (_, index) => String(index + 1));
    expect(logLines(container.logPath, "stdout")).toEqual(numbers);
  });

  test("ExecSync: output, exit code, and a timeout that kills the command", async () => {
    await using container = await pod.start("exec", forever);
    const execSync = (...command: string[]) => cri.crictl(["exec", "--sync", container.id, ...command]);
    expect((await execSync("sh", "-c", "echo out; echo err >&2")).stdout).toBe("out\n\nerr\n\n");
    expect((await execSync("sh", "-c", "echo problem >&2; exit 4")).stderr).toMatch(/exited with 4: problem/);

    const late = await cri.crictl(["exec", "--sync", "--timeout=2", container.id, "sleep", "7200"]);
    expect(late.exitCode).not.toBe(0);
    expect(late.stderr).toMatch(/timeout|deadline/i);
    expect((await container.exec("ps")).stdout).not.toContain("sleep 7200");
  });

  test("a container above its memory limit is killed alone: OOMKilled, exit code 137", async () => {
    await using other = await pod.start("small", forever);
    await using greedy = await pod.start("greedy", ["sh", "-c", "x=a; while :; do x=$x$x; done"], {
      config: { linux: { resources: { memory_limit_in_bytes: 16_777_216 } } },
    });

    expect(await greedy.ended()).toMatchObject({ exitCode: 137, reason: "OOMKilled" });
    expect(await other.exec("echo", "works")).toMatchObject({ stdout: "works\n" });
  });
});

test("an image volume: the files of another image, which cannot be changed", async () => {
  await using pod = await runPod(cri, "caisson");
  await using container = await pod.start("app", forever, {
    config: { mounts: [{ container_path: "/image", image: { image: busyboxImage }, readonly: true }] },
  });

  const seen = await container.exec("sh", "-c", "/image/bin/busybox echo there; touch /image/file");

  expect(seen).toMatchObject({ stdout: "there\n", stderr: expect.stringContaining("Read-only file system") });
});

test("hostNetwork is refused with the reason", async () => {
  const network = { linux: { security_context: { namespace_options: { network: 2 } } } };

  await expect(runPod(cri, "caisson", network)).rejects.toThrow(
    /no network namespace of its own, and the host's is out of reach of a VM/,
  );
});
