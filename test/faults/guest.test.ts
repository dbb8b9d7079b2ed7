import { expect } from "vitest";
import { containerdOfFile, fault, type Scene } from "./scene.ts";

const containerd = containerdOfFile();
const forever = ["sleep", "3600"];
// The agent is the guest's PID 1: no signal from inside kills it, and its death is a panic of the guest's kernel. A privileged
// container that fills its small memory brings that about.
const limits = ["--privileged", "--privileged-without-host-devices", "--memory-limit", String(32 << 20)];

const panic = (scene: Scene) => () => {
  const script = "echo 2 >/proc/sys/vm/panic_on_oom && tail /dev/zero";
  // The guest is gone before it could answer.
  void scene.exec("panic", ["sh", "-c", script], { timeoutMs: 30_000 });
};

fault(containerd, "guest panic (death of PID 1)", "running", async (scene) => {
  await scene.start(forever, limits);
  scene.strike(panic(scene));
  await scene.expectExit({ exitCode: 255, withinSeconds: 10 });
  await scene.remove();
});

fault(containerd, "guest panic (death of PID 1)", "exec", async (scene) => {
  await scene.start(forever, limits);
  const exec = scene.exec("e", forever);
  await scene.execStarted("e");
  scene.strike(panic(scene));
  await scene.expectExit({ exitCode: 255, withinSeconds: 10 });
  expect(await exec).toMatchObject({ exitCode: 255 });
  await scene.remove();
});

fault(containerd, "guest panic (death of PID 1)", "output flood", async (scene) => {
  const run = await scene.attach(["yes"], limits);
  run.stdout.resume();
  run.stderr.resume();
  scene.strike(panic(scene));
  await scene.expectExit({ exitCode: 255, withinSeconds: 10 });
  expect(await run.ended).toMatchObject({ exitCode: 255, timedOut: false });
});

const kill = (scene: Scene) => ["task", "kill", "--signal", "SIGKILL", scene.id];

fault(containerd, "SIGKILL of the container's init", "running", async (scene) => {
  await scene.start(forever);
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  await scene.expectExit({ exitCode: 137, withinSeconds: 5 });
  await scene.remove();
});

fault(containerd, "SIGKILL of the container's init", "exec", async (scene) => {
  await scene.start(forever);
  const exec = scene.exec("e", forever);
  await scene.execStarted("e");
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  await scene.expectExit({ exitCode: 137, withinSeconds: 5 });
  expect(await exec).toMatchObject({ exitCode: 137 });
  await scene.remove();
});

fault(containerd, "SIGKILL of the container's init", "output flood", async (scene) => {
  const run = await scene.attach(["yes"]);
  run.stdout.resume();
  run.stderr.resume();
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  await scene.expectExit({ exitCode: 137, withinSeconds: 5 });
  expect(await run.ended).toMatchObject({ exitCode: 137, timedOut: false });
});

fault(containerd, "SIGKILL of the container's init", "paused", async (scene) => {
  await scene.start(forever);
  await scene.containerd.ctrOk(["task", "pause", scene.id]);
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
  await scene.remove();
});
