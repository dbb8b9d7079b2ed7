import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { testAll } from "../support/cli-level.ts";
import { type Docker, newDocker, oldDocker, startDocker } from "../support/docker.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { startNameServer } from "../support/name-server.ts";

const waitFor = { timeout: 60_000, interval: 100 };

describe.each([
  { name: "20.10 with caisson-oci below runc's shim", programs: oldDocker, runtime: "oci" as const },
  { name: "23 or later with the shim", programs: newDocker, runtime: "shim" as const },
])("Docker $name", ({ programs, runtime }) => {
  let docker: Docker;
  beforeAll(async () => {
    docker = await startDocker(programs, runtime);
  });
  afterAll(() => docker?.[Symbol.asyncDispose]());
  checkLeaksAroundEachTest(() => docker.leakScope(), { cleanUp: () => docker.removeAll() });

  const inspect = (name: string, format: string) => docker.ok(["inspect", name, "--format", format]);
  const shows = (name: string, text: string) =>
    vi.waitFor(async () => expect(await docker.ok(["logs", name])).toContain(text), waitFor);

  test("run: stdin, stdout, stderr and the exit code; 127 for a program that is not there", async () => {
    const script = "read line; echo out $line; echo err >&2; exit 7";
    const run = ["run", "--rm", "--network", "none"];

    const result = await docker.docker([...run, "-i", "busybox", "sh", "-c", script], { input: "hello\n" });

    expect(result).toMatchObject({ exitCode: 7, stdout: "out hello\n", stderr: "err\n" });
    const missing = await docker.docker([...run, "busybox", "/no/such/command"]);
    expect(missing).toMatchObject({
      exitCode: 127,
      stderr: expect.stringContaining("executable file not found in $PATH"),
    });
  });

  test("run -d with a published port, exec, logs, stats, cp, pause, update, stop, start, kill, rm", async () => {
    const serve = "echo web >/tmp/index.html; httpd -f -p 80 -h /tmp & trap 'echo bye; exit 3' TERM";
    const script = `${serve}; echo up; while :; do sleep 0.2; done`;
    const options = ["--publish", "18080:80", "--memory", "100m", "--volume", "kept:/kept"];
    await docker.ok(["run", "-d", "--name", "web", ...options, "busybox", "sh", "-c", script]);
    await shows("web", "up");

    const get = ["wget", "-q", "-T", "20", "-O", "-", "http://127.0.0.1:18080/"];
    expect(await docker.onHost(get)).toMatchObject({ exitCode: 0, stdout: "web\n" });
    const address = await inspect("web", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    expect(await docker.onHost(["wget", "-q", "-O", "-", `http://${address}/`])).toMatchObject({
      stdout: "web\n",
    });

    const exec = ["exec", "-i", "--user", "1000", "--env", "A=b", "--workdir", "/tmp", "web"];
    const inside = await docker.docker(
      [...exec, "sh", "-c", 'read x; echo "$x|$A|$(pwd)|$(id -u)"; exit 5'],
      {
        input: "in\n",
      },
    );
    expect(inside).toMatchObject({ exitCode: 5, stdout: "in|b|/tmp|1000\n" });
    // Which of the two depends on Docker's version, not on the runtime.
    expect([126, 127]).toContain((await docker.docker(["exec", "web", "/no/such/command"])).exitCode);

    const [file, back] = [docker.dir.join("file"), docker.dir.join("back")];
    writeFileSync(file, "copied\n");
    await docker.ok(["cp", file, "web:/tmp/in"]);
    expect(await docker.ok(["exec", "web", "sh", "-c", "cat /tmp/in; echo made >/tmp/out"])).toBe("copied");
    await docker.ok(["cp", "web:/tmp/out", back]);
    expect(readFileSync(back, "utf8")).toBe("made\n");

    expect(await docker.ok(["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"])).toMatch(
      /^[\d.]+.iB/,
    );
    expect(await docker.ok(["top", "web"])).toContain("PID");
    await docker.ok(["pause", "web"]);
    expect(await inspect("web", "{{.State.Status}}")).toBe("paused");
    await docker.ok(["unpause", "web"]);
    await docker.ok(["update", "--memory", "90m", "--memory-swap", "90m", "web"]);
    await docker.ok(["stop", "--time", "60", "web"]);
    expect(await inspect("web", "{{.State.Status}} {{.State.ExitCode}}")).toBe("exited 3");
    expect(await docker.ok(["logs", "web"])).toBe("up\nbye");
    await docker.ok(["start", "web"]);
    await docker.ok(["kill", "web"]);
    expect(await docker.ok(["wait", "web"])).toBe("137");
    await docker.ok(["rm", "--volumes", "web"]);
    await docker.ok(["volume", "rm", "kept"]);
  });

  test("containers of a network that a user made find each other by name and alias, and names outside", async () => {
    await docker.ok(["network", "create", "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.1", "named"]);
    await using _outside = await startNameServer({
      netnsPath: docker.netnsPath,
      address: "10.77.0.1",
      answer: "10.9.9.9",
    });
    const serve = "echo served >/tmp/index.html; echo up; httpd -f -p 80 -h /tmp";
    const server = ["run", "-d", "--name", "server", "--network", "named", "--network-alias", "other"];
    await docker.ok([...server, "busybox", "sh", "-c", serve]);
    await shows("server", "up");
    const address = await inspect("server", "{{.NetworkSettings.Networks.named.IPAddress}}");

    // The busybox of the image is static, and resolves names in this applet only.
    const find = "find() { nslookup -type=a $1 | sed -n '4,$s/^Address: *//p'; }";
    const get = ["server", "other"].map(
      (name) => `printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 20 $(find ${name}) 80`,
    );
    const script = [find, "find server", ...get, "find far.outside"].join("; ");
    const client = ["run", "--rm", "--network", "named", "--dns", "10.77.0.1", "busybox"];
    const output = await docker.ok([...client, "sh", "-c", script]);

    expect(output).toContain(address);
    expect(output.match(/^served$/gm)).toHaveLength(2);
    expect(output).toContain("10.9.9.9");
    // From then on a container finds another one that came later.
    await docker.ok(["run", "-d", "--name", "later", "--network", "named", "busybox", "sleep", "1000"]);
    expect(await docker.ok(["exec", "server", "nslookup", "-type=a", "later"])).toContain(
      await inspect("later", "{{.NetworkSettings.Networks.named.IPAddress}}"),
    );
    await docker.ok(["rm", "--force", "server", "later"]);
    await docker.ok(["network", "rm", "named"]);
  });

  testAll("a restart policy, a health check and a network of its own", async () => {
    const failing = ["run", "-d", "--name", "failing", "--restart", "on-failure:2", "busybox"];
    await docker.ok([...failing, "sh", "-c", "echo again; exit 1"]);
    await vi.waitFor(async () => {
      expect(await docker.ok(["logs", "failing"])).toBe("again\nagain\nagain");
      expect(await inspect("failing", "{{.State.Status}}")).toBe("exited");
    }, waitFor);

    await docker.ok(["network", "create", "own"]);
    const health = ["--health-cmd", "test -e /tmp/ok", "--health-interval", "1s"];
    await docker.ok([
      "run",
      "-d",
      "--name",
      "checked",
      "--network",
      "own",
      ...health,
      "busybox",
      "sleep",
      "1000",
    ]);
    await docker.ok(["exec", "checked", "touch", "/tmp/ok"]);
    await vi.waitFor(async () => {
      expect(await inspect("checked", "{{.State.Health.Status}}")).toBe("healthy");
    }, waitFor);
    const address = await inspect("checked", "{{.NetworkSettings.Networks.own.IPAddress}}");
    const ping = ["run", "--rm", "--network", "own", "busybox", "ping", "-c", "1", "-W", "20", address];
    expect(await docker.ok(ping)).toContain("1 packets received");
    await docker.ok(["rm", "--force", "checked"]);
    await docker.ok(["network", "rm", "own"]);
  });
});
