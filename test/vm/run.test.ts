import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cli, createCli, image, layout } from "../support/cli.ts";
import { runOk } from "../support/cli-run.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { twoVcpus, usesQemu } from "../support/suite-settings.ts";
import { patient } from "../support/patience.ts";

/** How a container ends that prints "works"; stderr too, so that it is shown where it is not so. */
const works = { exitCode: 0, stdout: "works\n", stderr: "" };

let cli: Cli;
beforeAll(async () => {
  cli = await createCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

const run = (flags: string[], ...command: string[]) => cli.run(["run", "--rm", ...flags, image, ...command]);

test("run prints the command's output, and the kernel is the guest's own", async () => {
  const result = await run([], "uname", "-r");

  expect(result).toMatchObject({ exitCode: 0, stderr: "" });
  expect(result.stdout).toMatch(/^\d+\.\d+.*\n$/);
  expect(result.stdout.trim()).not.toBe(release());
});

test.for([0, 1, 7, 255])("the exit code is the command's: %i", async (code) => {
  expect(await run([], "sh", "-c", `exit ${code}`)).toMatchObject({ exitCode: code });
});

test.for([
  { signal: 9, code: 137 },
  { signal: 15, code: 143 },
])("a command ended by signal $signal: exit code $code", async ({ signal, code }) => {
  expect(await run([], "sh", "-c", `sh -c 'kill -${signal} $$'; exit $?`)).toMatchObject({ exitCode: code });
});

test("a missing command: 127, named, and the same id works at the next try", async () => {
  const name = ["--name", cli.id("missing")];
  const failed = await run(name, "/no/such/command");

  expect(failed).toMatchObject({ exitCode: 127, stdout: "" });
  expect(failed.stderr).toContain("/no/such/command");
  expect(await run(name, "echo", "works")).toMatchObject(works);
});

test("a command that cannot be executed: 126", async () => {
  const failed = await run([], "/etc/passwd");

  expect(failed).toMatchObject({ exitCode: 126 });
  expect(failed.stderr).toContain("/etc/passwd");
});

test("environment, working directory, user, hostname and arguments reach the command", async () => {
  const script = 'echo "$A|$(pwd)|$(id -u):$(id -g)|$1|$2"';
  const flags = ["-e", "A=x y=z", "-w", "/tmp", "-u", "65534:65534"];
  const result = await run(flags, "sh", "-c", script, "sh", "one two", "");

  expect(result).toMatchObject({ exitCode: 0, stdout: "x y=z|/tmp|65534:65534|one two|\n" });
});

test("--memory and --cpus are what the guest has", async () => {
  const script = "cat /sys/fs/cgroup/memory.max 2>/dev/null; grep -c ^processor /proc/cpuinfo";
  const result = await run(["--memory", "128M", "--cpus", "2"], "sh", "-c", script);

  expect(result).toMatchObject({ exitCode: 0, stdout: `${128 * 1024 * 1024}\n${twoVcpus}\n` });
});

test("-v shows a directory of the host, writable", async () => {
  const source = cli.dir.join("volume");
  mkdirSync(source);
  writeFileSync(`${source}/from-host`, "hello");
  const result = await run(
    ["-v", `${source}:/data`],
    "sh",
    "-c",
    "cat /data/from-host; echo back >/data/from-guest",
  );

  expect(result).toMatchObject({ exitCode: 0, stdout: "hello" });
  expect(readFileSync(`${source}/from-guest`, "utf8")).toBe("back\n");
});

test("-v …:ro is read-only on the host's side: nothing in the guest can write", async () => {
  const source = cli.dir.join("read-only");
  mkdirSync(source);
  writeFileSync(`${source}/kept`, "kept");
  const attempts = [
    "echo x >/data/kept",
    "echo x >/data/new",
    "rm /data/kept",
    "mkdir /data/dir",
    "chmod 777 /data/kept",
  ];
  const script = attempts.map((attempt) => `(${attempt}) 2>&1 && echo WRITTEN`).join("; ");
  const result = await run(["-v", `${source}:/data:ro`], "sh", "-c", `${script}; cat /data/kept`);

  expect(result.stdout).not.toContain("WRITTEN");
  expect(result.stdout.match(/Read-only file system/g)).toHaveLength(attempts.length);
  expect(result.stdout).toMatch(/kept$/);
  expect(readFileSync(`${source}/kept`, "utf8")).toBe("kept");
});

test("-v with the directory that holds the sandbox's own state works, and nothing is left", async () => {
  const result = await run(["-v", `${cli.dir.path}:/all:ro`], "ls", "/all");

  expect(result).toMatchObject({ exitCode: 0, stderr: "" });
  expect(result.stdout).toMatch(/^run$/m);
});

test("--timeline prints the phases with their times on stderr", async () => {
  const result = await run(["--timeline"], "echo", "out");

  expect(result).toMatchObject({ exitCode: 0, stdout: "out\n" });
  expect(result.stderr).toMatch(/VMM +[\d.]+ +[\d.]+/);
  expect(result.stderr).toMatch(/create +[\d.]+ +[\d.]+/);
});

test.for([2, 4])("%i at the same time", async (count) => {
  const numbers = Array.from({ length: count }, (_, index) => index);
  const results = await Promise.all(
    numbers.map((number) => run([], "sh", "-c", `sleep 1; echo ${number}; exit ${number}`)),
  );

  expect(results.map(({ exitCode, stdout, stderr }) => ({ exitCode, stdout, stderr }))).toEqual(
    numbers.map((number) => ({ exitCode: number, stdout: `${number}\n`, stderr: "" })),
  );
});

test("an image as an OCI archive", async () => {
  // Its progress is shown on stderr.
  const result = await cli.run(["run", "--rm", `oci-archive:${layout}.tar`, "echo", "works"]);

  expect(result).toMatchObject({ exitCode: 0, stdout: "works\n" });
});

test("an image as a directory is used as it is", async () => {
  const bundle = cli.dir.join("bundle");
  await runOk(["umoci", "unpack", "--image", `${layout}:latest`, bundle]);
  const result = await cli.run(["run", "--rm", `rootfs:${bundle}/rootfs`, "sh", "-c", "echo works >/made"]);

  expect(result).toMatchObject({ exitCode: 0, stderr: "" });
  expect(readFileSync(`${bundle}/rootfs/made`, "utf8")).toBe("works\n");
});

test("what a container writes is gone with it", async () => {
  const results = [await run([], "sh", "-c", "echo x >/made; cat /made"), await run([], "cat", "/made")];

  expect(results[0]).toMatchObject({ exitCode: 0, stdout: "x\n" });
  expect(results[1]).toMatchObject({ exitCode: 1, stdout: "" });
});

test.skipIf(!usesQemu)("a machine with PCI instead of virtio-mmio: q35", async () => {
  using _ = cli.configure('machine = "q35"');
  const result = await run([], "sh", "-c", "ls /sys/bus/pci/devices | wc -l");

  expect(result).toMatchObject({ exitCode: 0, stderr: "" });
  expect(Number(result.stdout)).toBeGreaterThan(4);
});

test("images are unpacked once", async () => {
  const begin = await run(["--timeline"], "true");
  const phase = /^image +[\d.]+ +([\d.]+)/m.exec(begin.stderr);

  expect(Number(phase?.[1])).toBeLessThan(patient(1_000));
});
