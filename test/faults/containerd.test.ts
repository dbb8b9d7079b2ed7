import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { taskState } from "../support/containerd.ts";
import { connectDaemon } from "./daemon-client.ts";
import { findPart, isRunning, signalAll, waitForPart } from "./parts.ts";
import { containerdOfFile, fault, type Scene } from "./scene.ts";

const containerd = containerdOfFile();
const forever = ["sleep", "3600"];

/** The task is still there and what it was. */
async function expectSurvives(scene: Scene, pid: number): Promise<void> {
  const state = await taskState(scene.containerd, scene.id);
  expect(state, "the task after the restart").toMatchObject({ pid, status: "RUNNING" });
  scene.strike(() => {});
  await scene.timed("kill", ["task", "kill", "--signal", "SIGKILL", scene.id], 6);
  await scene.expectExit({ exitCode: 137, withinSeconds: 10 });
}

/** After a fault in the middle of a call either of two ends is right, as long as the client can clean up. */
async function removeWhatIsThere(scene: Scene): Promise<void> {
  const state = await taskState(scene.containerd, scene.id);
  scene.note(`the task is ${state?.status ?? "gone"} after the restart`);
  if (state !== undefined) await scene.timed("delete", ["task", "delete", "--force", scene.id], 10);
  await scene.containerd.ctr(["container", "rm", scene.id]);
}

for (const { phase, delayMs } of [
  { phase: "start of the VM", delayMs: 0 },
  { phase: "boot of the guest", delayMs: 250 },
]) {
  fault(containerd, "SIGKILL of containerd", phase, async (scene) => {
    const run = scene.run(["sleep", "3600"]);
    await waitForPart(scene.id, "QEMU");
    await sleep(delayMs); // The moment is what the phase is about.
    await scene.containerd.kill();
    await run;
    await scene.restartContainerd();
    await removeWhatIsThere(scene);
  });
}

fault(containerd, "SIGKILL of containerd", "running", async (scene) => {
  const task = await scene.start(forever);
  await scene.containerd.kill();
  await scene.restartContainerd();
  await expectSurvives(scene, task.pid);
  await scene.remove();
});

fault(containerd, "SIGKILL of containerd", "running, QEMU dies while it is away", async (scene) => {
  const task = await scene.start(forever);
  await scene.containerd.kill();
  await using daemon = await connectDaemon(scene);
  signalAll([task.pid], "SIGKILL");
  expect(await daemon.wait(), "exit status that the daemon knows").toBe(255);
  scene.strike(() => {});
  await scene.restartContainerd();
  await scene.expectExit({ exitCode: 255, withinSeconds: 15 });
  expect(await taskState(scene.containerd, scene.id)).toMatchObject({ status: "STOPPED" });
  await scene.remove();
});

fault(containerd, "SIGKILL of containerd", "running, the daemon dies while it is away", async (scene) => {
  const task = await scene.start(forever);
  const daemon = findPart(scene.id, "daemon");
  await scene.containerd.kill();
  signalAll(daemon, "SIGKILL");
  scene.strike(() => {});
  await scene.restartContainerd();
  expect(await taskState(scene.containerd, scene.id), "the task").toBeUndefined();
  expect(isRunning(task.pid), "QEMU runs").toBe(false);
});

fault(containerd, "SIGKILL of containerd", "exec", async (scene) => {
  const task = await scene.start(forever);
  const exec = scene.exec("e", forever);
  await scene.execStarted("e");
  await scene.containerd.kill();
  await exec;
  await scene.restartContainerd();
  await expectSurvives(scene, task.pid);
  await scene.remove();
});

fault(containerd, "SIGKILL of containerd", "output flood", async (scene) => {
  using _ = scene.containerd.configure("drain_timeout_ms = 2000");
  const run = await scene.attach(["yes"]);
  run.stdout.resume();
  run.stderr.resume();
  await sleep(300); // The flood is on.
  const [pid = 0] = findPart(scene.id, "QEMU");
  await scene.containerd.kill();
  await run.ended;
  await scene.restartContainerd();
  await expectSurvives(scene, pid);
  await scene.remove();
});

fault(containerd, "SIGKILL of containerd", "delete", async (scene) => {
  await scene.start(["sh", "-c", "exit 7"]);
  await scene.expectExit({ exitCode: 7, withinSeconds: 60 });
  const deleting = scene.containerd.ctr(["task", "delete", scene.id]);
  const [pid = 0] = findPart(scene.id, "QEMU");
  await sleep(70); // In the middle of it.
  await scene.containerd.kill();
  await deleting;
  // A containerd that is back before the daemon has finished takes the shim for one in use: so it is with all shims.
  while (isRunning(pid)) await sleep(20);
  await sleep(500); // From QEMU's end to the end of the delete.
  await scene.restartContainerd();
  await removeWhatIsThere(scene);
});
