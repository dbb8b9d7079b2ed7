import { expect } from "vitest";
import { containerdOfFile, fault, type Scene } from "./scene.ts";

const containerd = containerdOfFile();
const forever = ["sleep", "3600"];
const privileged = ["--privileged"];

// The agent is the guest's PID 1: no signal from inside kills it, and its death is a panic of the guest's kernel. With
// SysRq a privileged container brings that about.
const sysrq = (scene: Scene, key: string) => () => {
  // The guest is gone before it could answer.
  void scene.exec("sysrq", ["sh", "-c", `echo ${key} >/proc/sysrq-trigger`], { timeoutMs: 30_000 });
};

fault(containerd, "guest panic (death of PID 1)", "running", async (scene) => {
  await scene.start(forever, privileged);
  scene.strike(sysrq(scene, "c"));
  await scene.expectExit({ exitCode: 255, withinSeconds: 10 });
  await scene.remove();
});

fault(containerd, "guest panic (death of PID 1)", "exec", async (scene) => {
  await scene.start(forever, privileged);
  const exec = scene.exec("e", forever);
  await scene.execStarted("e");
  scene.strike(sysrq(scene, "c"));
  await scene.expectExit({ exitCode: 255, withinSeconds: 10 });
  expect(await exec).toMatchObject({ exitCode: 255 });
  await scene.remove();
});

fault(containerd, "guest panic (death of PID 1)", "output flood", async (scene) => {
  const run = await scene.attach(["yes"], privileged);
  run.stdout.resume();
  run.stderr.resume();
  scene.strike(sysrq(scene, "c"));
  await scene.expectExit({ exitCode: 255, withinSeconds: 10 });
  expect(await run.ended).toMatchObject({ exitCode: 255, timedOut: false });
});

fault(containerd, "SIGKILL of all but PID 1 in the guest", "running", async (scene) => {
  await scene.start(forever, privileged);
  scene.strike(sysrq(scene, "i"));
  await scene.expectExit({ exitCode: 137, withinSeconds: 10 });
  await scene.remove();
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
