import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { start } from "../support/cli-run.ts";
import { taskState } from "../support/containerd.ts";
import { runShimDelete } from "./delete-command.ts";
import { findPart, isRunning, signalAll, waitForPart } from "./parts.ts";
import { containerdOfFile, fault, type Scene } from "./scene.ts";

const containerd = containerdOfFile();
const forever = ["sleep", "3600"];

const stop = (pids: readonly number[]) => () => signalAll(pids, "SIGSTOP");
const killArgs = (id: string) => ["task", "kill", "--signal", "SIGKILL", id];

/** A SIGKILL that the guest cannot take: its VM is killed in its place, which is what was asked for. */
async function expectKillWorks(scene: Scene): Promise<void> {
  scene.strike(() => {});
  await scene.timed("kill", killArgs(scene.id), 6);
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
}

fault(containerd, "SIGSTOP of QEMU", "running, then SIGKILL", async (scene) => {
  const task = await scene.start(forever);
  await using other = await scene.containerd.startTask([], `${scene.id}-other`, ...forever);
  stop([task.pid])();
  await scene.timed("state", ["task", "ls"], 2);
  expect(await taskState(scene.containerd, scene.id)).toMatchObject({ status: "RUNNING" });
  const exec = ["task", "exec", "--exec-id", "e", "--fifo-dir", scene.containerd.dir.join("fifo"), other.id];
  scene.strike(() => {});
  const killing = scene.containerd.ctr(killArgs(scene.id));
  const inOther = await scene.timed("an exec in another sandbox", [...exec, "echo", "works"], 10);
  expect(inOther).toMatchObject({ exitCode: 0, stdout: "works\n" });
  await killing;
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
  await scene.timed("delete", ["task", "delete", scene.id], 10);
});

fault(containerd, "SIGSTOP of QEMU", "running, SIGKILL timed", async (scene) => {
  const task = await scene.start(forever);
  stop([task.pid])();
  await expectKillWorks(scene);
  await scene.remove();
});

fault(containerd, "SIGSTOP of QEMU", "exec, then its SIGKILL", async (scene) => {
  const task = await scene.start(forever);
  const exec = scene.exec("e", forever);
  await scene.execStarted("e");
  stop([task.pid])();
  scene.strike(() => {});
  await scene.timed("kill", ["task", "kill", "--exec-id", "e", "--signal", "SIGKILL", scene.id], 6);
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
  expect(await exec).toMatchObject({ exitCode: 137 });
  await scene.remove();
});

fault(containerd, "SIGSTOP of QEMU", "output flood, then SIGKILL", async (scene) => {
  const run = await scene.attach(["yes"]);
  run.stdout.resume();
  run.stderr.resume();
  await sleep(500); // The flood is on.
  stop(findPart(scene.id, "QEMU"))();
  await expectKillWorks(scene);
  expect(await run.ended).toMatchObject({ exitCode: 137, timedOut: false });
});

fault(containerd, "SIGSTOP of QEMU", "running, nobody kills", async (scene) => {
  using _ = scene.containerd.configure("health_interval_ms = 1000");
  const task = await scene.start(forever);
  scene.strike(stop([task.pid]));
  // Three looks of up to 1 s each, 1 s apart.
  await scene.expectExit({ exitCode: 255, withinSeconds: 12 });
  await scene.remove();
});

fault(containerd, "SIGSTOP of QEMU", "boot", async (scene) => {
  using _ = scene.containerd.configure("boot_timeout_ms = 4000");
  const run = scene.run(["true"]);
  const pids = await waitForPart(scene.id, "QEMU");
  scene.strike(stop(pids));
  scene.expectFailure(await run, { message: /4000 ms|deadline|in time/i, withinSeconds: 12 });
});

fault(containerd, "SIGSTOP of QEMU", "boot, the client gives up", async (scene) => {
  const argv = scene.containerd.ctrArgv(...scene.containerd.runArgs([], scene.id, "true"));
  await using client = start(argv);
  const pids = await waitForPart(scene.id, "QEMU");
  stop(pids)();
  scene.strike(() => client.child.kill("SIGKILL"));
  while (pids.some(isRunning) && scene.elapsed() < 20) await sleep(50);
  scene.note(`QEMU was gone after ${scene.elapsed().toFixed(2)} s`);
  expect(scene.elapsed(), "seconds until QEMU was gone").toBeLessThan(10);
  await scene.containerd.ctrOk(["container", "rm", scene.id]);
});

fault(containerd, "SIGSTOP of QEMU", "delete", async (scene) => {
  await scene.start(["sh", "-c", "exit 7"]);
  await scene.expectExit({ exitCode: 7, withinSeconds: 60 });
  stop(findPart(scene.id, "QEMU"))();
  await scene.timed("delete", ["task", "delete", scene.id], 10);
});

fault(containerd, "SIGSTOP of QEMU", "the `delete` command", async (scene) => {
  const task = await scene.start(forever);
  stop([task.pid])();
  scene.strike(() => {});
  await runShimDelete(scene);
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
});

fault(containerd, "SIGSTOP of QEMU", "containerd restarts", async (scene) => {
  const task = await scene.start(forever);
  stop([task.pid])();
  await scene.restartContainerd();
  expect(await taskState(scene.containerd, scene.id), "the task after the restart").toMatchObject({
    pid: task.pid,
    status: "RUNNING",
  });
  await expectKillWorks(scene);
  await scene.remove();
});

fault(containerd, "SIGSTOP of the daemon", "running, the `delete` command", async (scene) => {
  await scene.start(forever);
  scene.strike(stop(findPart(scene.id, "daemon")));
  await scene.timed("state", ["task", "ls"], 12);
  scene.strike(() => {});
  await runShimDelete(scene);
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
});

fault(containerd, "SIGSTOP of virtiofsd", "running, then SIGKILL", async (scene) => {
  await scene.start(forever);
  stop(findPart(scene.id, "virtiofsd"))();
  await scene.timed("state", ["task", "ls"], 2);
  await expectKillWorks(scene);
  await scene.timed("delete", ["task", "delete", scene.id], 10);
});

fault(containerd, "SIGSTOP of virtiofsd", "reading files, then SIGKILL", async (scene) => {
  await scene.start(["sh", "-c", "while :; do cat /bin/busybox; ls -lR /; touch /x; done >/dev/null 2>&1"]);
  await sleep(1_000); // It reads.
  stop(findPart(scene.id, "virtiofsd"))();
  await sleep(1_000); // It waits for an answer that does not come.
  scene.strike(() => {});
  await scene.timed("kill", killArgs(scene.id), 6);
  await scene.expectExit({ exitCode: 137, withinSeconds: 10 });
  await scene.timed("delete", ["task", "delete", scene.id], 10);
});

fault(containerd, "SIGSTOP of virtiofsd", "boot", async (scene) => {
  using _ = scene.containerd.configure("boot_timeout_ms = 4000");
  const run = scene.run(["true"]);
  // The parent and the worker, which is what serves.
  const pids = await waitForPart(scene.id, "virtiofsd", 2);
  scene.strike(stop(pids));
  scene.expectFailure(await run, { message: /4000 ms|virtiofsd|deadline/i, withinSeconds: 12 });
});

fault(containerd, "SIGSTOP of the vsock backend", "running, then SIGKILL", async (scene) => {
  await scene.start(forever);
  stop(findPart(scene.id, "vsock backend"))();
  await scene.timed("state", ["task", "ls"], 2);
  await expectKillWorks(scene);
  await scene.remove();
});

fault(containerd, "SIGSTOP of the vsock backend", "running, nobody kills", async (scene) => {
  using _ = scene.containerd.configure("health_interval_ms = 1000");
  await scene.start(forever);
  scene.strike(stop(findPart(scene.id, "vsock backend")));
  await scene.expectExit({ exitCode: 255, withinSeconds: 12 });
  await scene.remove();
});
