import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statfsSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { taskState } from "../support/containerd.ts";
import { patient } from "../support/patience.ts";
import { unmountBelow } from "../support/temp-dir.ts";
import { bundleOf, runShimDelete } from "./delete-command.ts";
import { findPart, isRunning, signalAll } from "./parts.ts";
import { containerdOfFile, fault, type Scene } from "./scene.ts";

const containerd = containerdOfFile();
const forever = ["sleep", "3600"];
const sh = (file: string, ...args: string[]) => execFileSync(file, args, { encoding: "utf8", stdio: "pipe" });

/** A network namespace with one end of a veth pair in it, as CNI makes it; the other end is the same namespace's. */
function makeNetns(name: string): Disposable & { readonly path: string; remove(): void } {
  sh("ip", "netns", "add", name);
  sh("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "outside");
  sh("ip", "-n", name, "address", "add", "10.88.0.2/24", "dev", "eth0");
  sh("ip", "-n", name, "link", "set", "eth0", "up");
  sh("ip", "-n", name, "link", "set", "outside", "up");
  const path = `/run/netns/${name}`;
  const remove = () => {
    if (existsSync(path)) sh("ip", "netns", "del", name);
  };
  return { path, remove, [Symbol.dispose]: remove };
}

async function expectRunsAndDies(scene: Scene): Promise<void> {
  const echo = await scene.exec("check", ["echo", "works"]);
  expect(echo).toMatchObject({ exitCode: 0, stdout: "works\n" });
  scene.strike(() => {});
  await scene.containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", scene.id]);
  await scene.expectExit({ exitCode: 137, withinSeconds: 5 });
  await scene.timed("delete", ["task", "delete", scene.id], 10);
}

fault(containerd, "network namespace missing", "start of the VM", async (scene) => {
  scene.strike(() => {});
  const run = scene.run(["true"], ["--with-ns", `network:/run/netns/${scene.id}`]);
  scene.expectFailure(await run, { message: new RegExp(`/run/netns/${scene.id}`), withinSeconds: 10 });
});

fault(containerd, "network namespace removed", "running", async (scene) => {
  using netns = makeNetns(scene.id);
  await scene.start(forever, ["--with-ns", `network:${netns.path}`]);
  netns.remove();
  await expectRunsAndDies(scene);
});

fault(containerd, "network namespace removed", "delete", async (scene) => {
  using netns = makeNetns(scene.id);
  await scene.start(["sh", "-c", "exit 7"], ["--with-ns", `network:${netns.path}`]);
  await scene.expectExit({ exitCode: 7, withinSeconds: 60 });
  netns.remove();
  await scene.timed("delete", ["task", "delete", scene.id], 10);
});

fault(containerd, "link and tap removed", "running", async (scene) => {
  using netns = makeNetns(scene.id);
  await scene.start(forever, ["--with-ns", `network:${netns.path}`]);
  const links = JSON.parse(sh("ip", "-json", "-n", scene.id, "link", "show")) as { ifname: string }[];
  const removed = links.map(({ ifname }) => ifname).filter((name) => name !== "lo" && name !== "outside");
  scene.note(`removed ${removed.join(", ")}`);
  expect(removed.length, "links beside lo").toBeGreaterThan(1);
  for (const name of removed) sh("ip", "-n", scene.id, "link", "del", name);
  await expectRunsAndDies(scene);
});

/** All of the bundle that is no mount: what an overeager clean-up of /run takes. */
function removeBundle(scene: Scene): void {
  const bundle = bundleOf(scene);
  unmountBelow(join(bundle, "rootfs"));
  for (const entry of readdirSync(bundle, { withFileTypes: true })) {
    const path = join(bundle, entry.name);
    if (entry.isDirectory()) rmdirSync(path);
    else unlinkSync(path);
  }
  rmdirSync(bundle);
}

/** containerd finds its own directory of a container through a link in the bundle: without, it leaves that. */
function removeWorkDirectory({ containerd: { dir, namespace }, id }: Scene): void {
  rmdirSync(dir.join("root/io.containerd.runtime.v2.task", namespace, id));
}

fault(containerd, "bundle removed", "running", async (scene) => {
  await scene.start(forever);
  removeBundle(scene);
  await expectRunsAndDies(scene);
  removeWorkDirectory(scene);
  // What `start` noted about the container goes with `delete`, which containerd cannot start without the bundle.
  scene.note("containerd cannot start `delete` without the bundle; started by hand it needs none");
  await runShimDelete(scene);
});

fault(containerd, "bundle removed", "running, then SIGKILL of the daemon", async (scene) => {
  const task = await scene.start(forever);
  const daemon = findPart(scene.id, "daemon");
  removeBundle(scene);
  scene.strike(() => signalAll(daemon, "SIGKILL"));
  // containerd starts `delete` in the bundle, so that it cannot; runc's shim has the same end.
  await scene.expectExit({ exitCode: 255, withinSeconds: 5 });
  scene.note("containerd cannot start `delete` without the bundle; started by hand it needs none");
  // Killed with the daemon; it takes its time to give back its memory.
  await expect.poll(() => isRunning(task.pid), { message: "QEMU runs", timeout: patient(5_000) }).toBe(false);
  await runShimDelete(scene);
  await runShimDelete(scene);
  removeWorkDirectory(scene);
});

fault(containerd, "the `delete` command", "running, daemon alive", async (scene) => {
  await scene.start(forever);
  scene.strike(() => {});
  await runShimDelete(scene);
  await scene.expectExit({ exitCode: 137, withinSeconds: 5 });
});

fault(containerd, "the `delete` command", "daemon dead, containerd away, twice", async (scene) => {
  await scene.start(forever);
  const daemon = findPart(scene.id, "daemon");
  await scene.containerd.kill();
  signalAll(daemon, "SIGKILL");
  await runShimDelete(scene);
  await runShimDelete(scene);
  scene.strike(() => {});
  await scene.restartContainerd();
  expect(await taskState(scene.containerd, scene.id), "the task").toBeUndefined();
});

/** A state directory of so many bytes, in the place of the usual one. */
function smallStateDirectory(scene: Scene, options: string): AsyncDisposable & { readonly path: string } {
  const path = scene.containerd.dir.join("run");
  sh("mount", "-t", "tmpfs", "-o", `mode=755,${options}`, "caisson-faults", path);
  // What has ended has let go of it in a moment.
  const umount = async () => {
    await expect.poll(() => spawnSync("umount", [path]).status, { timeout: 5_000 }).toBe(0);
  };
  return { path, [Symbol.asyncDispose]: umount };
}

for (const { what, option } of [
  { what: "without space", option: (step: number) => `size=${4 * (step + 1)}k` },
  { what: "without inodes", option: (step: number) => `nr_inodes=${step + 2}` },
]) {
  fault(
    containerd,
    `state directory ${what}`,
    "start of the VM, each step of it",
    async (scene) => {
      const messages = new Set<string>();
      let step = 0;
      scene.strike(() => {});
      for (let isDone = false; !isDone; step++) {
        expect(step, "steps until it works").toBeLessThan(60);
        await using state = smallStateDirectory(scene, option(step));
        const result = await scene.run(["true"]);
        isDone = result.exitCode === 0;
        if (!isDone) {
          messages.add(
            result.stderr
              .trim()
              .split(": ")
              .slice(-3)
              .join(": ")
              .replace(/"[^"]*"/g, "…"),
          );
          // vhost-device-vsock does not say why it cannot bind its socket.
          expect(result.stderr, `the message at step ${step}: ${result.stderr.trim()}`).toMatch(
            /no space left|ENOSPC|bind a unix/i,
          );
        }
        const left = () => readdirSync(state.path, { recursive: true }).map(String);
        // The daemon that `start` has failed in may end after it.
        await expect
          .poll(() => left().filter((name) => !name.startsWith(".")), {
            timeout: 5_000,
            message: `left at step ${step}`,
          })
          .toEqual([]);
      }
      scene.note(`works at step ${step}; messages: ${[...messages].join(" / ")}`);
    },
    { timeoutMs: 600_000 },
  );
}

fault(containerd, "state directory without space", "running, exec, delete", async (scene) => {
  await using state = smallStateDirectory(scene, "size=256k");
  await scene.start(forever);
  const filler = join(state.path, "filler");
  try {
    writeFileSync(filler, Buffer.alloc(statfsSync(state.path).bavail * statfsSync(state.path).bsize));
  } catch {
    // Full all the same.
  }
  expect(statfsSync(state.path).bavail, "free blocks").toBe(0);
  await expectRunsAndDies(scene);
  unlinkSync(filler);
});

/** An administrator's change root has /run in it: mounts of ours are then there twice, and theirs hold our files. */
fault(containerd, "state directory bound elsewhere too", "delete", async (scene) => {
  const elsewhere = scene.containerd.dir.join("elsewhere");
  mkdirSync(elsewhere, { recursive: true });
  await scene.start(["sh", "-c", "exit 7"]);
  await scene.expectExit({ exitCode: 7, withinSeconds: 60 });
  sh("mount", "--rbind", "--make-rprivate", scene.containerd.dir.join("run"), elsewhere);
  try {
    const first = await scene.containerd.ctr(["task", "delete", scene.id]);
    scene.note(`delete ${first.exitCode} ${first.stderr.trim()}`);
  } finally {
    unmountBelow(elsewhere);
    rmdirSync(elsewhere);
  }
  // Whatever the first delete could do: now one succeeds.
  if ((await taskState(scene.containerd, scene.id)) !== undefined) {
    await scene.containerd.ctrOk(["task", "delete", scene.id]);
  }
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(scene.id);
});
