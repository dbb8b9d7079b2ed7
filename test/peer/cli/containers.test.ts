import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { createFixture, type Fixture } from "./fixture.ts";

const loop = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done";

async function status(fixture: Fixture, name: string): Promise<string | undefined> {
  const rows = JSON.parse((await fixture.cli(["ps", "-a", "--json"])).stdout) as {
    id: string;
    status: string;
  }[];
  return rows.find((row) => row.id === name)?.status;
}

describe("in the background", () => {
  test("run, ps, exec, logs -f, stop, rm", async () => {
    await using fixture = createFixture();
    const name = fixture.name("a");
    const run = await fixture.cli([
      "run",
      "-d",
      "--name",
      name,
      fixture.image,
      "sh",
      "-c",
      `trap 'exit 3' TERM; ${loop}`,
    ]);
    expect(run).toMatchObject({ exitCode: 0, stdout: `${name}\n`, stderr: "" });
    expect((await fixture.cli(["ps", "-q"])).stdout).toBe(`${name}\n`);

    const exec = await fixture.cli(["exec", "-i", name, "sh", "-c", "cat; exit 9"], { input: "given" });
    expect(exec).toMatchObject({ exitCode: 9, stdout: "given" });

    const follow = fixture.cli(["logs", "-f", name]);
    await sleep(300);
    expect(await fixture.cli(["rm", name])).toMatchObject({ exitCode: 1 });
    expect(await fixture.cli(["stop", name])).toMatchObject({ exitCode: 0, stdout: `${name}\n` });
    // What was followed is all that there is.
    expect((await follow).stdout).toBe((await fixture.cli(["logs", name])).stdout);
    expect((await fixture.cli(["ps", "-a"])).stdout).toContain("exited (3)");
    expect(await fixture.cli(["stop", name])).toMatchObject({ exitCode: 0 });
    expect(await fixture.cli(["exec", name, "true"])).toMatchObject({ exitCode: 125 });
    expect(await fixture.cli(["rm", name])).toMatchObject({ exitCode: 0 });
    expect(fixture.containers).toEqual([]);
  });

  test("a process that ignores the stop signal is killed", async () => {
    await using fixture = createFixture();
    const name = fixture.name("a");
    await fixture.cli(["run", "-d", "--name", name, fixture.image, "sh", "-c", `trap '' TERM; ${loop}`]);
    expect(await fixture.cli(["stop", "-t", "1", name])).toMatchObject({ exitCode: 0 });
    expect((await fixture.cli(["ps", "-a"])).stdout).toContain("exited (137)");
    expect(fixture.requests.filter((request) => request.startsWith("Kill"))).toEqual(["Kill 15", "Kill 9"]);
  });

  test("--rm removes it when it has ended", async () => {
    await using fixture = createFixture();
    await fixture.cli(["run", "-d", "--rm", "--name", fixture.name("a"), fixture.image, "sleep", "0.2"]);
    while (fixture.containers.length > 0) await sleep(20);
    expect(fixture.requests.at(-1)).toBe("delete");
  });

  test("rm -f frees the id at once, again and again", async () => {
    await using fixture = createFixture();
    const name = fixture.name("a");
    for (let round = 0; round < 3; round++) {
      const run = await fixture.cli(["run", "-d", "--rm", "--name", name, fixture.image, "sleep", "60"]);
      expect(run).toMatchObject({ exitCode: 0, stderr: "" });
      expect(await fixture.cli(["rm", "-f", name])).toMatchObject({ exitCode: 0, stdout: `${name}\n` });
      expect(fixture.containers).toEqual([]);
    }
  });

  test("a daemon that dies, and a waiting process that dies too", async () => {
    await using fixture = createFixture();
    const name = fixture.name("a");
    await fixture.cli(["run", "-d", "--name", name, fixture.image, "sleep", "60"]);
    const directory = fixture.directory.join("data/containers", name);
    process.kill(Number(readFileSync(`${directory}/daemon.pid`, "utf8")), "SIGKILL");
    while ((await status(fixture, name)) !== "exited") await sleep(20);
    await fixture.cli(["rm", name]);

    await fixture.cli(["run", "-d", "--name", name, fixture.image, "sleep", "60"]);
    killWaiting(name);
    process.kill(Number(readFileSync(`${directory}/daemon.pid`, "utf8")), "SIGKILL");
    expect(await status(fixture, name)).toBe("dead");
    expect(await fixture.cli(["rm", name])).toMatchObject({ exitCode: 0 });
    expect(fixture.containers).toEqual([]);
  });

  test("output that nobody reads keeps neither stop nor rm -f from their work", async () => {
    await using fixture = createFixture();
    const name = fixture.name("a");
    await using running = fixture.start(["run", "--name", name, fixture.image, "yes"]);
    running.stdout.pause();
    while ((await status(fixture, name)) !== "running") await sleep(20);
    expect(await fixture.cli(["stop", "-t", "1", name], { timeoutMs: 60_000 })).toMatchObject({
      exitCode: 0,
    });
    expect(await fixture.cli(["rm", "-f", name])).toMatchObject({ exitCode: 0 });
    expect(fixture.containers).toEqual([]);
    expect((await running.ended).timedOut).toBe(false);
  });

  test("several at once; a failure of one does not keep the others from it", async () => {
    await using fixture = createFixture();
    const names = ["a", "b", "c"].map(fixture.name);
    await Promise.all(
      names.map((name) => fixture.cli(["run", "-d", "--name", name, fixture.image, "sleep", "60"])),
    );
    const result = await fixture.cli(["rm", "-f", ...names, fixture.name("nope")]);
    expect(result.exitCode).toBe(1);
    expect(result.stdout.trim().split("\n").sort()).toEqual([...names].sort());
    expect(result.stderr).toContain(`Cannot find container "${fixture.name("nope")}"`);
    expect(fixture.containers).toEqual([]);
  });
});

/** Kills the hidden process of one container, found by its exact last arguments. */
function killWaiting(name: string): void {
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const args = readFileSync(`/proc/${entry}/cmdline`, "utf8").split("\0");
      if (args.at(-3) === "internal-wait" && args.at(-2) === name) process.kill(Number(entry), "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
}
