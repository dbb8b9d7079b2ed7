import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { testAll } from "../support/cli-level.ts";
import { type Containerd, isCaisson, startContainerd, type Task, taskState } from "../support/containerd.ts";
import { watchEvents } from "../support/containerd-events.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { markedProcesses } from "../support/leaks-processes.ts";
import { patient } from "../support/patience.ts";
import { usesQemu, vmmProgram } from "../support/suite-settings.ts";

/** How a container ends that prints "works"; stderr too, so that it is shown where it is not so. */
const works = { exitCode: 0, stdout: "works\n", stderr: "" };

let containerd: Containerd;
beforeAll(async () => {
  containerd = await startContainerd();
});
afterAll(() => containerd[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => containerd.leakScope(), { cleanUp: () => containerd.removeAll() });

const startSleep = (name: string) => containerd.startTask([], containerd.id(name), "sleep", "3600");

/** The id must work again whatever happened to the container that had it. */
async function expectIdWorks(id: string): Promise<void> {
  const result = await containerd.ctr(containerd.runArgs(["--rm"], id, "echo", "works"));
  expect(result).toMatchObject(works);
}

async function removeContainer(id: string): Promise<void> {
  await containerd.ctr(["task", "delete", id]);
  await containerd.ctrOk(["container", "rm", id]);
}

/** The process that is the parent of the task's: the shim's daemon. */
function daemonOf(task: Task): number {
  const stat = readFileSync(`/proc/${task.pid}/stat`, "latin1");
  const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  expect(readFileSync(`/proc/${parent}/cmdline`, "latin1")).toContain("containerd-shim");
  return parent;
}

function isRunning(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

test("SIGKILL of the shim's daemon: the task ends with 137, the sandbox with it, and nothing is left", async () => {
  const id = containerd.id("daemon");
  await using events = await watchEvents(containerd);
  {
    await using task = await startSleep("daemon");
    process.kill(daemonOf(task), "SIGKILL");
    const exit = await events.waitFor(
      ({ topic, content }) => topic === "/tasks/exit" && content["container_id"] === id,
    );
    await events.waitFor(({ topic, content }) => topic === "/tasks/delete" && content["container_id"] === id);

    expect(exit.content).toMatchObject({ exit_status: 137 });
    expect(await taskState(containerd, id)).toBeUndefined();
    expect(isRunning(task.pid)).toBe(false);
    await containerd.ctrOk(["container", "rm", id]);
  }
  await expectIdWorks(id);
});

describe.skipIf(!isCaisson)("the parts of a sandbox (needs io.containerd.caisson.v2)", () => {
  test("a task's pid is its VMM's, which is not root's and has no capabilities", async () => {
    await using task = await startSleep("vmm");
    const status = readFileSync(`/proc/${task.pid}/status`, "utf8");

    expect(basename(readlinkSync(`/proc/${task.pid}/exe`))).toMatch(new RegExp(`^${vmmProgram}`));
    expect(status).toMatch(/^CapEff:\s+0+$/m);
    expect(status).toMatch(/^CapBnd:\s+0+$/m);
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    // Cloud Hypervisor's first thread only waits for the others, and is not filtered.
    const threads = readdirSync(`/proc/${task.pid}/task`).filter(
      (tid) => usesQemu || Number(tid) !== task.pid,
    );
    for (const tid of threads)
      expect(readFileSync(`/proc/${task.pid}/task/${tid}/status`, "utf8")).toMatch(/^Seccomp:\s+2$/m);
    expect(status).not.toMatch(/^Uid:.*\b0\b/m);
  });

  test("SIGKILL of the VMM: every process ends within a second with its exit event, init last", async () => {
    const id = containerd.id("vm");
    await using events = await watchEvents(containerd);
    {
      await using task = await startSleep("vm");
      const exec = containerd.ctr([
        "task",
        "exec",
        "--exec-id",
        "e",
        "--fifo-dir",
        containerd.dir.join("fifo"),
        id,
        "sleep",
        "3600",
      ]);
      await events.waitFor(
        ({ topic, content }) => topic === "/tasks/exec-started" && content["container_id"] === id,
      );

      const killedAtMs = performance.now();
      process.kill(task.pid, "SIGKILL");
      const exit = await events.waitFor(
        ({ topic, content }) => topic === "/tasks/exit" && content["id"] === id,
      );
      console.log(`exit event ${Math.round(exit.receivedAtMs - killedAtMs)} ms after SIGKILL of the VMM`);

      expect(exit.receivedAtMs - killedAtMs).toBeLessThan(patient(3_000));
      expect(exit.content).toMatchObject({ exit_status: 255 });
      expect(await exec).toMatchObject({ exitCode: 255 });
      const exits = events.events.filter(
        ({ topic, content }) => topic === "/tasks/exit" && content["container_id"] === id,
      );
      expect(exits.map(({ content }) => content["id"])).toEqual(["e", id]);
      expect(await taskState(containerd, id)).toMatchObject({ status: "STOPPED" });
      await removeContainer(id);
    }
    await expectIdWorks(id);
  });

  test("SIGKILL of the VMM ends an attached run with 255", async () => {
    const id = containerd.id("attached");
    await using events = await watchEvents(containerd);
    const run = containerd.ctr(containerd.runArgs(["--rm"], id, "sh", "-c", "echo before; sleep 3600"));
    const started = await events.waitFor(
      ({ topic, content }) => topic === "/tasks/start" && content["container_id"] === id,
    );
    process.kill(started.content["pid"] as number, "SIGKILL");

    expect(await run).toMatchObject({ exitCode: 255 });
  });

  test.for([
    { program: "virtiofsd", name: "files" },
    // Where the kernel or the VMM serves the vsock there is none.
    ...(usesQemu && !existsSync("/dev/vhost-vsock")
      ? [{ program: "vhost-device-vsock", name: "socket" }]
      : []),
  ])("SIGKILL of $program ends the sandbox with 255 and nothing is left", async ({ program, name }) => {
    const id = containerd.id(name);
    await using events = await watchEvents(containerd);
    await using task = await startSleep(name);
    const helpers = childrenOf(daemonOf(task), program);
    expect(helpers).not.toEqual([]);
    for (const pid of helpers) process.kill(pid, "SIGKILL");
    const exit = await events.waitFor(
      ({ topic, content }) => topic === "/tasks/exit" && content["id"] === id,
    );

    expect(exit.content).toMatchObject({ exit_status: 255 });
    await removeContainer(id);
  });

  test("a panic of the guest's kernel ends every process with 255", async () => {
    const id = containerd.id("panic");
    await using events = await watchEvents(containerd);
    // The memory is small, so that an exec runs out of it at once.
    const limits = ["--privileged", "--privileged-without-host-devices", "--memory-limit", String(32 << 20)];
    await using _task = await containerd.startTask(limits, id, "sleep", "3600");
    const script = "echo 2 >/proc/sys/vm/panic_on_oom && tail /dev/zero";
    const flags = ["--exec-id", "e", "--fifo-dir", containerd.dir.join("fifo")];
    const exec = await containerd.ctr(["task", "exec", ...flags, id, "sh", "-c", script]);
    const exit = await events.waitFor(
      ({ topic, content }) => topic === "/tasks/exit" && content["id"] === id,
    );

    expect(exec).toMatchObject({ exitCode: 255 });
    expect(exit.content).toMatchObject({ exit_status: 255 });
    await removeContainer(id);
  });

  test("SIGKILL ends a task whose VMM hangs", async () => {
    const id = containerd.id("hung");
    await using events = await watchEvents(containerd);
    await using task = await startSleep("hung");
    process.kill(task.pid, "SIGSTOP");
    const killedAtMs = performance.now();
    await containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", id]);
    const exit = await events.waitFor(
      ({ topic, content }) => topic === "/tasks/exit" && content["id"] === id,
    );

    expect(exit.receivedAtMs - killedAtMs).toBeLessThan(patient(8_000));
    expect(exit.content).toMatchObject({ exit_status: 137 });
    await removeContainer(id);
  });

  testAll(
    "the VMM killed at any moment of the start leaves nothing, and the id works again",
    async () => {
      const id = containerd.id("moments");
      for (let delayMs = 200; delayMs <= 4_000; delayMs += 400) {
        const run = containerd.ctr(containerd.runArgs(["--rm"], id, "true"));
        await new Promise((resolve) => setTimeout(resolve, delayMs)); // The moment is what varies.
        for (const pid of markedProcesses({ marks: [id] }, new RegExp(vmmProgram)))
          process.kill(pid, "SIGKILL");
        await run;
      }
      await expectIdWorks(id);
    },
    patient(600_000),
  );
});

function childrenOf(parent: number, program: string): number[] {
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").trim().split(" ");
  return children
    .map(Number)
    .filter((pid) => pid > 0 && readFileSync(`/proc/${pid}/comm`, "utf8").startsWith(program.slice(0, 15)));
}
