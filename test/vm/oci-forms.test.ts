/** Forms of the command line that callers other than Podman and Docker use, and their output. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createInterface } from "node:readline";
import { ReadStream } from "node:tty";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { loadNative } from "../../src/base/native.ts";
import { featuresDocument } from "../../src/oci-cli/documents.ts";
import { testAll } from "../support/cli-level.ts";
import { createOciCli, type OciCli } from "../support/oci-cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { vmmProgram } from "../support/suite-settings.ts";

const waitFor = { timeout: 30_000, interval: 50 };

let cli: OciCli;
beforeAll(async () => {
  cli = await createOciCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

test("list and ps as tables, events at an interval, exec with capabilities, no_new_privs and a console socket", async () => {
  const id = cli.id("forms");
  const bundle = cli.bundle("forms", ["sh", "-c", "sleep 1000"]);
  await cli.detached(["run", "-d", "-b", bundle, id], "/dev/null");
  const { pid } = await cli.state(id);

  const [header = "", row = ""] = (await cli.ok(["list"])).stdout.split("\n");
  expect(header).toMatch(/^ID +PID {9}STATUS {6}BUNDLE +CREATED +OWNER$/);
  expect(row.split(/ {3,}/)).toEqual([id, String(pid), "running", bundle, expect.anything(), "root"]);
  const { stdout } = await cli.ok(["ps", id, "-o", "pid,comm"]);
  expect(stdout).toMatch(new RegExp(`^ *PID COMMAND\\n *${pid} caisson-stand-i\\n$`));
  expect(await cli.run(["ps", id, "-o", "comm"])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("couldn't find PID field in ps output"),
  });

  const events = cli.start(["events", "--interval", "200ms", id]);
  const lines = createInterface({ input: events.stdout })[Symbol.asyncIterator]();
  for (let count = 0; count < 3; count++) {
    const { value } = await lines.next();
    expect(JSON.parse(String(value))).toMatchObject({ type: "stats", id, data: { cpu: { usage: {} } } });
  }
  expect(await cli.run(["events", "--interval", "abc", id])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('invalid value \\"abc\\" for flag -interval: parse error'),
  });

  const status = async (...flags: string[]) =>
    (await cli.ok(["exec", ...flags, id, "grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"])).stdout;
  // CAP_KILL, and CAP_NET_RAW in addition.
  expect(await status("--no-new-privs")).toBe("CapEff:\t0000000000000020\nNoNewPrivs:\t1\n");
  expect(await status("--cap", "CAP_NET_RAW")).toContain("CapEff:\t0000000000002020\n");
  expect(await cli.run(["exec", "--cwd", "/nonexistent", id, "pwd"])).toMatchObject({
    exitCode: 255,
    stderr: expect.stringContaining(
      'chdir to cwd (\\"/nonexistent\\") set in config.json failed: no such file',
    ),
  });

  const socket = cli.dir.join("exec.sock");
  const listener = loadNative().listenUnix(socket);
  const pidFile = cli.dir.join("exec.pid");
  const exec = ["exec", "--tty", "--detach", "--console-socket", socket, "--pid-file", pidFile, id];
  expect(await cli.run([...exec, "sh", "-c", "tty; read line; echo got $line; exit 3"])).toMatchObject({
    exitCode: 0,
  });
  const { fd } = loadNative().receiveFd(listener);
  closeSync(listener);
  let shown = "";
  const master = new ReadStream(fd);
  master.on("data", (chunk) => {
    shown += String(chunk);
  });
  master.on("error", () => {
    // EIO: the other side is closed.
  });
  await vi.waitFor(() => expect(shown).toContain("/dev/pts/"), waitFor);
  expect(JSON.parse((await cli.ok(["ps", "-f", "json", id])).stdout)).toEqual([
    pid,
    Number(readFileSync(pidFile, "utf8")),
  ]);
  loadNative().setWindowSize(fd, 80, 24);
  writeSync(fd, "words\r");
  await vi.waitFor(() => expect(shown).toContain("got words"), waitFor);
  master.destroy();

  await cli.ok(["kill", id, "KILL"]);
  // The stream of events ends with the container.
  expect(await events.ended).toMatchObject({ exitCode: 0 });
  await cli.ok(["delete", id]);
});

test("the stand-in and the VM are in the cgroup that the configuration names; the guest's processes are seen through it", async () => {
  const id = cli.id("cgroup");
  const name = `caisson_test_${process.pid}`;
  const places = [`/${name}/${id}`, `/${name}.slice/oci-${id}.scope`];
  for (const [index, cgroupsPath] of [places[0] ?? "", `${name}.slice:oci:${id}`].entries()) {
    const script = "sleep 1001 & sleep 1000";
    const bundle = cli.bundle(`cgroup${index}`, ["sh", "-c", script], { cgroupsPath });
    await cli.detached(["create", "-b", bundle, id], "/dev/null");
    const { pid } = await cli.state(id);
    const cgroup = readFileSync(`/proc/${pid}/cgroup`, "utf8");
    expect(cgroup).toMatch(new RegExp(`^\\d+:[^:]*:${places[index] ?? ""}$`, "m"));
    const directory = existsSync("/sys/fs/cgroup/memory") ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
    const pids = readFileSync(`${directory}${places[index] ?? ""}/cgroup.procs`, "utf8")
      .trim()
      .split("\n");
    const programs = pids.map((each) => readFileSync(`/proc/${each}/comm`, "utf8").trim());
    expect(programs).toEqual(
      expect.arrayContaining(["caisson-stand-i", vmmProgram.slice(0, 15)].map(beginning)),
    );

    await cli.ok(["start", id]);
    const proc = `/proc/${pid}/root/proc`;
    const commandLines = () =>
      readdirSync(proc)
        .filter((entry) => /^\d+$/.test(entry))
        .map((entry) => readFileSync(`${proc}/${entry}/cmdline`, "utf8").replaceAll("\0", " "));
    await vi.waitFor(() => {
      expect(commandLines()).toEqual(["sleep 1000 ", "sleep 1001 "]);
    }, waitFor);
    expect(() => writeFileSync(`${proc}/stat`, "x")).toThrow("EROFS");

    await cli.ok(["kill", id, "KILL"]);
    await vi.waitFor(async () => expect(await cli.state(id)).toMatchObject({ status: "stopped" }), waitFor);
    await cli.ok(["delete", id]);
    expect(existsSync(`${directory}${places[index] ?? ""}`)).toBe(false);
  }
});

function beginning(text: string): unknown {
  return expect.stringMatching(new RegExp(`^${text}`));
}

test("checkpoint and restore are refused; of an unknown container checkpoint says that first", async () => {
  expect(await cli.run(["checkpoint", cli.id("unknown")])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("container does not exist"),
  });
  expect(await cli.run(["restore", cli.id("unknown")])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("restore is not supported"),
  });
});

testAll("features: every mount option that it names is taken", async () => {
  const id = cli.id("features");
  const bundle = cli.bundle("features", ["sh", "-c", "cut -d' ' -f5 /proc/self/mountinfo"]);
  const source = cli.dir.join("features-source");
  mkdirSync(source);
  const path = `${bundle}/config.json`;
  const spec = JSON.parse(readFileSync(path, "utf8")) as { mounts: object[] };
  const ofBinds = ["bind", "rbind", "private", "rprivate", "slave", "rslave", "rro"];
  const mapping = [{ containerID: 0, hostID: 1000, size: 1 }];
  const { mountOptions } = featuresDocument();
  for (const option of mountOptions) {
    const destination = `/m-${option}`;
    if (ofBinds.includes(option)) {
      spec.mounts.push({ destination, type: "bind", source, options: ["rbind", option] });
    } else if (option.endsWith("idmap")) {
      const mappings = { uidMappings: mapping, gidMappings: mapping };
      spec.mounts.push({ destination, type: "bind", source, options: ["rbind", option], ...mappings });
    } else {
      // There has to be one to mount anew.
      if (option === "remount") spec.mounts.push({ destination, type: "tmpfs", source: "tmpfs" });
      spec.mounts.push({ destination, type: "tmpfs", source: "tmpfs", options: [option] });
    }
  }
  writeFileSync(path, JSON.stringify(spec));

  const { stdout } = await cli.ok(["run", "-b", bundle, id]);

  const mounted = stdout.split("\n").filter((line) => line.startsWith("/m-"));
  expect(new Set(mounted)).toEqual(new Set(mountOptions.map((option) => `/m-${option}`)));
});
