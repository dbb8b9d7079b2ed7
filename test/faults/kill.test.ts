import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { findPart, isRunning, type PartName, signalAll, waitForPart } from "./parts.ts";
import { containerdOfFile, fault, type Scene } from "./scene.ts";

const containerd = containerdOfFile();
const forever = ["sleep", "3600"];

/** The parts that end the VM with them: 255, because nobody asked for it. The daemon is dead itself: containerd says 137. */
const parts: readonly { readonly part: PartName; readonly exitCode: number }[] = [
  { part: "QEMU", exitCode: 255 },
  { part: "virtiofsd", exitCode: 255 },
  { part: "vsock backend", exitCode: 255 },
  { part: "daemon", exitCode: 137 },
];

for (const { part, exitCode } of parts) {
  const name = `SIGKILL of ${part === "daemon" ? "the daemon" : part === "vsock backend" ? "the vsock backend" : part}`;
  const kill = (pids: readonly number[]) => () => signalAll(pids, "SIGKILL");
  const withinSeconds = 5;
  // containerd's own account of a dead shim knows no execs.
  const knowsExecs = part !== "daemon";

  for (const { phase, delayMs } of [
    { phase: "start of the VM", delayMs: 0 },
    // A guest boots in 400 ms on a quick machine, in seconds on a busy one.
    { phase: "boot of the guest", delayMs: 250 },
  ]) {
    fault(containerd, name, phase, async (scene) => {
      const run = scene.run(["true"]);
      await waitForPart(scene.id, part);
      // The moment is what the phase is about.
      await sleep(delayMs);
      scene.strike(kill(findPart(scene.id, part)));
      const message = part === "daemon" ? /ttrpc: closed|shim/ : /ended|was killed|exited/i;
      scene.expectFailure(await run, { message, withinSeconds: 10 });
    });
  }

  fault(containerd, name, "running", async (scene) => {
    const task = await scene.start(forever);
    scene.strike(kill(findPart(scene.id, part)));
    await scene.expectExit({ exitCode, withinSeconds });
    await scene.remove();
    expect(isRunning(task.pid), "QEMU runs").toBe(false);
  });

  fault(containerd, name, "exec", async (scene) => {
    await scene.start(forever);
    const exec = scene.exec("e", forever);
    await scene.execStarted("e");
    scene.strike(kill(findPart(scene.id, part)));
    await scene.expectExit({ exitCode, withinSeconds });
    const { exitCode: seen } = await exec;
    scene.note(`the exec's client got ${seen}`);
    if (knowsExecs) expect(seen, "exit code of the exec").toBe(exitCode);
    else expect(seen, "exit code of the exec").not.toBe(0);
    await scene.remove();
  });

  fault(containerd, name, "output flood", async (scene) => {
    const run = await scene.attach(["yes"]);
    let bytes = 0;
    const flowing = new Promise<void>((resolve) => {
      run.stdout.on("data", (chunk: Buffer) => (bytes += chunk.length) > 1_000_000 && resolve());
    });
    run.stderr.resume();
    await flowing;
    scene.strike(kill(findPart(scene.id, part)));
    await scene.expectExit({ exitCode, withinSeconds });
    const end = await run.ended;
    scene.note(`the client got ${end.exitCode} and ${Math.round(bytes / 1e6)} MB`);
    // Where the daemon is dead the client loses its wait; the exit event is what tells.
    if (knowsExecs) expect(end).toMatchObject({ exitCode, timedOut: false });
    else expect(end).toMatchObject({ exitCode: expect.any(Number), timedOut: false });
  });

  const deleting = async (scene: Scene) => {
    await scene.start(["sh", "-c", "exit 7"]);
    await scene.expectExit({ exitCode: 7, withinSeconds: 60 });
    const pids = findPart(scene.id, part);
    const answer = scene.containerd.ctr(["task", "delete", scene.id]);
    // In the middle of it: ctr takes some 30 ms to begin, the power-off of the guest 50 ms and more.
    await sleep(70);
    scene.strike(kill(pids));
    const { exitCode: seen } = await answer;
    scene.note(`delete answered ${seen} after ${scene.elapsed().toFixed(2)} s`);
    expect(scene.elapsed(), "seconds of the delete").toBeLessThan(10);
    // The daemon may be dead before it could answer; containerd then cleans up by itself.
    if (part !== "daemon") expect(seen, "exit code of `ctr task delete`").toBe(0);
    await scene.containerd.ctr(["task", "delete", "--force", scene.id]);
    await scene.containerd.ctrOk(["container", "rm", scene.id]);
  };
  // For a daemon that dies before its delete is over containerd makes up an exit, whatever it was told before.
  fault(containerd, name, "delete", deleting, part === "daemon" ? { exits: "unchecked" } : {});
}

// An orderly end of the daemon by hand, or by a service manager that takes it for its own.
for (const { phase, delayMs } of [
  { phase: "start of the VM", delayMs: 0 },
  { phase: "boot of the guest", delayMs: 250 },
]) {
  fault(containerd, "SIGTERM of the daemon", phase, async (scene) => {
    const run = scene.run(["true"]);
    await waitForPart(scene.id, "QEMU");
    // The moment is what the phase is about.
    await sleep(delayMs);
    scene.strike(() => signalAll(findPart(scene.id, "daemon"), "SIGTERM"));
    scene.expectFailure(await run, { message: /is ending|ttrpc: closed/, withinSeconds: 10 });
  });
}

fault(containerd, "SIGTERM of the daemon", "running", async (scene) => {
  await scene.start(forever);
  scene.strike(() => signalAll(findPart(scene.id, "daemon"), "SIGTERM"));
  await scene.expectExit({ exitCode: 137, withinSeconds: 8 });
});
