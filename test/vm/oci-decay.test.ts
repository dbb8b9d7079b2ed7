/** What is left of a container when something of it is killed or damaged, and that it can be told and removed. */
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync } from "node:fs";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { identify, isAlive } from "../../src/base/processes.ts";
import { testAll } from "../support/cli-level.ts";
import { createOciCli, type OciCli } from "../support/oci-cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

const waitFor = { timeout: 30_000, interval: 50 };
const sleeper = ["sh", "-c", "echo up; sleep 1000"];

let cli: OciCli;
beforeAll(async () => {
  cli = await createOciCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

/** A detached container that runs. */
async function running(name: string): Promise<{ readonly id: string; readonly pid: number }> {
  const id = cli.id(name);
  const bundle = cli.bundle(name, sleeper);
  const started = await cli.detached(["run", "-d", "-b", bundle, id], cli.dir.join(`${name}.out`));
  expect(started).toMatchObject({ exitCode: 0 });
  return { id, pid: (await cli.state(id)).pid };
}

/** The process of this machine whose command line has these words. */
function pidOf(...words: readonly string[]): number {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const found = pids.filter((pid) => {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, "latin1");
      return words.every((word) => line.includes(word));
    } catch {
      return false;
    }
  });
  expect(found).toHaveLength(1);
  return Number(found[0]);
}

test("SIGKILL of a foreground run: its container is killed and removed", async () => {
  const id = cli.id("foreground");
  const run = cli.start(["run", "-b", cli.bundle("foreground", sleeper), id]);
  await vi.waitFor(async () => expect(await cli.state(id)).toMatchObject({ status: "running" }), waitFor);

  run.child.kill("SIGKILL");
  await run.ended;

  await vi.waitFor(() => expect(existsSync(cli.dir.join("root", id))).toBe(false), waitFor);
  expect((await cli.ok(["list", "-q"])).stdout).toBe("");
});

test("SIGKILL of QEMU: the container has stopped, its stand-in has ended, delete removes the rest", async () => {
  const { id, pid } = await running("qemu");
  const standIn = identify(pid);

  process.kill(pidOf("qemu-system", `guest=${id}`), "SIGKILL");

  await vi.waitFor(() => expect(standIn === undefined || isAlive(standIn)).toBe(false), waitFor);
  expect(await cli.state(id)).toMatchObject({ status: "stopped", pid: 0 });
  expect(await cli.run(["kill", id])).toMatchObject({ exitCode: 1 });
  await cli.ok(["delete", id]);
});

test("SIGKILL of a create: the container is listed as stopped, and delete removes it", async () => {
  const id = cli.id("half");
  const create = cli.start(["create", "-b", cli.bundle("half", sleeper), id]);
  await vi.waitFor(async () => expect(await cli.state(id)).toMatchObject({ status: "creating" }), waitFor);
  expect(await cli.run(["delete", id])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining(`cannot delete container ${id} that is not stopped: creating`),
  });

  create.child.kill("SIGKILL");
  await create.ended;

  expect((await cli.ok(["list"])).stdout).toMatch(new RegExp(`^${id} +0 +stopped `, "m"));
  expect(await cli.run(["start", id])).toMatchObject({ exitCode: 1 });
  expect(await cli.run(["exec", id, "true"])).toMatchObject({ exitCode: 255 });
  await cli.ok(["delete", id]);
  expect((await cli.ok(["list", "-q"])).stdout).toBe("");
});

testAll("SIGKILL of the proxy behind the stand-in ends both and the container", async () => {
  const { id, pid } = await running("proxy");
  const standIn = identify(pid);

  process.kill(pidOf("caisson-oci.js", "proxy", id), "SIGKILL");

  await vi.waitFor(() => expect(standIn === undefined || isAlive(standIn)).toBe(false), waitFor);
  await vi.waitFor(async () => expect(await cli.state(id)).toMatchObject({ status: "stopped" }), waitFor);
  await cli.ok(["delete", id]);
});

const decays = [
  { what: "a state file that is cut", damage: (path: string) => truncateSync(`${path}/state.json`, 20) },
  { what: "no state file", damage: (path: string) => rmSync(`${path}/state.json`) },
  {
    what: "no directory of the daemon",
    damage: (path: string) => rmSync(`${path}/shim`, { recursive: true }),
  },
  { what: "no configuration", damage: (path: string) => rmSync(`${path}/config.toml`) },
  {
    what: "no directory of the streams",
    damage: (path: string) => rmSync(`${path}/io`, { recursive: true }),
  },
];
for (const { what, damage } of decays) {
  testAll(`with ${what} the others are listed, and delete --force leaves nothing`, () => removed(damage));
}

async function removed(damage: (path: string) => void): Promise<void> {
  const other = await running("other");
  const { id } = await running("damaged");
  damage(cli.dir.join("root", id));

  const listed = await cli.run(["list", "-q"]);
  expect(listed).toMatchObject({ exitCode: 0, stdout: expect.stringContaining(`${other.id}\n`) });
  await cli.ok(["delete", "--force", id]);
  expect(existsSync(cli.dir.join("root", id))).toBe(false);
  expect(await cli.state(other.id)).toMatchObject({ status: "running" });
  await cli.ok(["delete", "--force", other.id]);
  for (const name of ["damaged", "other"]) rmSync(cli.dir.join("bundles", name), { recursive: true });
}

testAll("without its bundle a container is known, killed and deleted", async () => {
  const { id } = await running("bundle");
  rmSync(cli.dir.join("bundles", "bundle"), { recursive: true });

  expect(await cli.state(id)).toMatchObject({ status: "running" });
  await cli.ok(["kill", id, "KILL"]);
  await vi.waitFor(async () => expect(await cli.state(id)).toMatchObject({ status: "stopped" }), waitFor);
  await cli.ok(["delete", id]);
});
