import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { run } from "../../support/cli-run.ts";
import { createFixture } from "./fixture.ts";

const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");

describe("run in the foreground", () => {
  test("the calls come in containerd's order, the exit code is the command's, nothing is left", async () => {
    await using fixture = createFixture();
    const result = await fixture.cli([
      "run",
      "--rm",
      fixture.image,
      "sh",
      "-c",
      "echo out; echo err >&2; exit 7",
    ]);
    expect(result).toMatchObject({ exitCode: 7, stdout: "out\n", stderr: "err\n" });
    expect(fixture.requests).toEqual([
      "start",
      "Create bind",
      "Wait",
      "Start",
      "Delete",
      "Shutdown",
      "delete",
    ]);
    expect(fixture.containers).toEqual([]);
  });

  test("64 MiB go through stdin and stdout exactly, also to a slow reader", async () => {
    await using fixture = createFixture();
    const data = randomBytes(64 * 1024 * 1024);
    const running = fixture.start(["run", "--rm", "-i", fixture.image, "cat"]);
    running.stdin.end(data);
    const hash = createHash("sha256");
    let count = 0;
    for await (const chunk of running.stdout) {
      hash.update(chunk as Uint8Array);
      if (++count % 200 === 0) await sleep(50);
    }
    expect(await running.ended).toMatchObject({ exitCode: 0 });
    expect(hash.digest("hex")).toBe(sha256(data));
    expect(fixture.requests).toContain("CloseIO");
  });

  test("to a file, and through the log", async () => {
    await using fixture = createFixture();
    const source = fixture.directory.join("source");
    const out = fixture.directory.join("out");
    const data = randomBytes(8 * 1024 * 1024);
    writeFileSync(source, data);
    const name = fixture.name("a");
    const command = fixture.argv("run", "--name", name, fixture.image, "cat", source);
    const result = await run(["sh", "-c", `exec "$@" > ${out}`, "sh", ...command]);
    expect(result).toMatchObject({ exitCode: 0, stderr: "" });
    expect(sha256(readFileSync(out))).toBe(sha256(data));
    const logs = fixture.start(["logs", name]);
    const chunks: Uint8Array[] = [];
    for await (const chunk of logs.stdout) chunks.push(chunk as Uint8Array);
    expect(sha256(Buffer.concat(chunks))).toBe(sha256(data));
    expect((await fixture.cli(["ps", "-a", "--json"])).stdout).toContain('"status": "exited"');
    expect(await fixture.cli(["rm", name])).toMatchObject({ exitCode: 0, stdout: `${name}\n` });
    expect(fixture.containers).toEqual([]);
  });

  test("a reader that leaves ends the container", async () => {
    await using fixture = createFixture();
    const running = fixture.start(["run", "--rm", fixture.image, "yes"]);
    await once(running.stdout, "data");
    running.stdout.destroy();
    expect(await running.ended).toMatchObject({ exitCode: 141 });
    expect(fixture.containers).toEqual([]);
  });

  test("signals reach the process", async () => {
    await using fixture = createFixture();
    const script = "trap 'echo usr1' USR1; trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done";
    const running = fixture.start(["run", "--rm", fixture.image, "sh", "-c", script]);
    const output: string[] = [];
    running.stdout.setEncoding("utf8");
    running.stdout.on("data", (chunk: string) => {
      output.push(chunk);
      if (chunk.includes("up")) process.kill(running.pid, "SIGUSR1");
      if (chunk.includes("usr1")) process.kill(running.pid, "SIGTERM");
    });
    expect(await running.ended).toMatchObject({ exitCode: 5 });
    expect(output.join("")).toBe("up\nusr1\n");
  });

  test("the timeline has our phases", async () => {
    await using fixture = createFixture();
    const { stderr } = await fixture.cli(["run", "--rm", "--timeline", fixture.image, "true"]);
    const phases = stderr
      .trim()
      .split("\n")
      .map((line) => line.replace(/\s{2,}.*/, ""));
    expect(phases).toEqual([
      "phase",
      "program",
      "image",
      "bundle",
      "shim",
      "create",
      "start",
      "run",
      "delete",
      "shutdown",
      "shim delete",
      "unaccounted",
      "total",
    ]);
  });
});

describe("failures leave nothing, and the id works again", () => {
  test.each([
    ["FAKE_CREATE_ERROR=executable file `x` not found in $PATH: No such file or directory", 127],
    ["FAKE_CREATE_ERROR=open executable: Permission denied", 126],
    ["FAKE_CREATE_ERROR=Cannot boot: no space left on device", 125],
    ["FAKE_START_ERROR=Cannot start: the agent is gone", 125],
  ])("%s", async (setting, exitCode) => {
    await using fixture = createFixture();
    const name = fixture.name("a");
    const failed = await fixture.cli(["run", "--name", name, "-e", setting, fixture.image, "true"]);
    expect(failed.exitCode).toBe(exitCode);
    expect(failed.stderr).toContain(setting.slice(setting.indexOf("=") + 1));
    expect(fixture.containers).toEqual([]);
    expect(fixture.requests.at(-1)).toBe("delete");
    expect(await fixture.cli(["run", "--rm", "--name", name, fixture.image, "true"])).toMatchObject({
      exitCode: 0,
    });
  });

  test("a Ctrl-C while it is created", async () => {
    await using fixture = createFixture();
    const running = fixture.start(["run", "-e", "FAKE_SLOW_CREATE=20000", fixture.image, "true"]);
    while (!fixture.requests.includes("Create bind")) await sleep(20);
    process.kill(running.pid, "SIGINT");
    expect(await running.ended).toMatchObject({ exitCode: 130 });
    expect(fixture.containers).toEqual([]);
  });

  test("a daemon that dies", async () => {
    await using fixture = createFixture();
    const name = fixture.name("a");
    const running = fixture.start([
      "run",
      "--name",
      name,
      fixture.image,
      "sh",
      "-c",
      "echo $PPID; exec sleep 60",
    ]);
    const [pid] = (await once(running.stdout, "data")) as [Buffer];
    process.kill(Number(pid.toString()), "SIGKILL");
    expect(await running.ended).toMatchObject({ exitCode: 125 });
    expect((await fixture.cli(["ps", "-a"])).stdout).toContain("exited (137)");
    expect(await fixture.cli(["rm", name])).toMatchObject({ exitCode: 0 });
  });

  test("no image, no user, no command, a name in use", async () => {
    await using fixture = createFixture();
    const { image } = fixture;
    const name = fixture.name("a");
    const fails = async (args: string[], message: string) => {
      const result = await fixture.cli(["run", ...args]);
      expect(result).toMatchObject({ exitCode: 125, stdout: "" });
      expect(result.stderr).toContain(message);
    };
    await fails(["oci:/nowhere", "x"], 'Cannot use image "oci:/nowhere"');
    await fails(["rootfs:/nowhere", "x"], 'Cannot use image "rootfs:/nowhere"');
    await fails(["-u", "nobody", image, "x"], 'Cannot use user "nobody"');
    await fails([image], "it names no command");
    await fails(["-it", image, "sh"], "the input device is not a TTY");
    expect(await fixture.cli(["run", "--name", name, image, "true"])).toMatchObject({ exitCode: 0 });
    await fails(["--name", name, image, "true"], `Cannot create container "${name}": it is in use`);
    expect(fixture.containers).toEqual([name]);
  });
});
