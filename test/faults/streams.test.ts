import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { start } from "../support/cli-run.ts";
import { connectDaemon } from "./daemon-client.ts";
import { findPart } from "./parts.ts";
import { containerdOfFile, fault, type Scene } from "./scene.ts";

const containerd = containerdOfFile();
const forever = ["sleep", "3600"];
const kill = (scene: Scene) => ["task", "kill", "--signal", "SIGKILL", scene.id];
const drain = "drain_timeout_ms = 2000";

function residentMiB(pid: number): number {
  const [, kib = "0"] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kib) / 1024;
}

async function expectExecWorks(scene: Scene): Promise<void> {
  expect(await scene.exec("check", ["echo", "works"])).toMatchObject({ exitCode: 0, stdout: "works\n" });
}

fault(containerd, "reader never reads", "output flood, then SIGKILL", async (scene) => {
  using _ = scene.containerd.configure(drain);
  // Nobody reads ctr's pipe, so ctr does not read the FIFO.
  await scene.attach(["yes"]);
  const [daemon = 0] = findPart(scene.id, "daemon");
  const before = residentMiB(daemon);
  await sleep(3_000); // The flood has filled what it can.
  const grown = residentMiB(daemon) - before;
  scene.note(`the daemon grew by ${grown.toFixed(1)} MiB`);
  expect(grown, "MiB that the daemon grew by").toBeLessThan(32);
  await expectExecWorks(scene);
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  await scene.expectExit({ exitCode: 137, withinSeconds: 6 });
  await scene.timed("delete", ["task", "delete", scene.id], 10);
  await scene.containerd.ctrOk(["container", "rm", scene.id]);
});

fault(containerd, "reader never reads", "exec's output flood, then SIGKILL", async (scene) => {
  using _ = scene.containerd.configure(drain);
  await scene.start(forever);
  const flags = ["--exec-id", "e", "--fifo-dir", scene.containerd.dir.join("fifo")];
  await using _exec = start(scene.containerd.ctrArgv("task", "exec", ...flags, scene.id, "yes"));
  await scene.execStarted("e");
  await sleep(1_000); // The flood has filled what it can.
  await expectExecWorks(scene);
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
  await scene.timed("delete", ["task", "delete", scene.id], 10);
});

fault(containerd, "reader dies", "output flood", async (scene) => {
  using _ = scene.containerd.configure(drain);
  const run = await scene.attach(["yes"]);
  run.stdout.resume();
  run.stderr.resume();
  await sleep(300); // The flood is on.
  run.child.kill("SIGKILL");
  await run.ended;
  await expectExecWorks(scene);
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  await scene.expectExit({ exitCode: 137, withinSeconds: 6 });
  await scene.timed("delete", ["task", "delete", scene.id], 10);
  await scene.containerd.ctrOk(["container", "rm", scene.id]);
});

fault(containerd, "200 waits at once", "running", async (scene) => {
  await scene.start(forever);
  await using daemon = await connectDaemon(scene);
  const waits = Array.from({ length: 200 }, () => daemon.wait());
  await scene.timed("state", ["task", "ls"], 2);
  await expectExecWorks(scene);
  scene.strike(() => {});
  await scene.timed("kill", kill(scene), 5);
  const statuses = new Set(await Promise.all(waits));
  await scene.expectExit({ exitCode: 137, withinSeconds: 5 });
  expect([...statuses], "what the waits answered").toEqual([137]);
  await scene.remove();
});
