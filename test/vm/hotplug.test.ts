import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { attachLoop, type Loop, withDevices } from "../support/loops.ts";
import { createPod, type Pod, type PodContainer } from "../support/model-pod.ts";

const mebibyte = 1024 ** 2;
describe("a sandbox on q35", () => {
  let pod: Pod;
  let first: PodContainer;
  let loop: Loop;
  beforeAll(async () => {
    pod = createPod({ machine: "q35" });
    loop = attachLoop(pod.dir, "late");
    first = await pod.start("", {
      linux: { resources: { memory: { limit: 200 * mebibyte }, cpu: { quota: 50_000, period: 100_000 } } },
    });
  });
  afterAll(async () => {
    await pod.sandbox.close();
    loop[Symbol.dispose]();
    await pod[Symbol.asyncDispose]();
  });

  /** Numbers of the guest, as the first container sees them. */
  async function disks(): Promise<string> {
    return (await first.sh("echo /sys/block/vd*")).output;
  }

  test("a block device of a later container is plugged in, and goes with the container", async () => {
    const late = await pod.start("late", withDevices([loop, "/dev/xvda", "rwm"]));
    const seen = await late.sh(
      "head -n 1 /dev/xvda; stat -c %F:%u:%g:%a /dev/xvda; echo changed | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null",
    );

    expect(seen.output).toBe("late\nblock special file:3:4:640\n");
    expect(await disks()).toBe("/sys/block/vda /sys/block/vdb\n");
    const again = await pod.start("again", withDevices([loop, "/dev/again", "r"]));
    expect(await again.sh("head -n 1 /dev/again; echo x 2>&1 >/dev/again")).toMatchObject({
      output: expect.stringMatching(/^changed\n.*not permitted/),
    });
    await late.remove();
    expect(await again.sh("head -c 7 /dev/again")).toMatchObject({ output: "changed" });
    await again.remove();

    expect(await disks()).toBe("/sys/block/vda\n");
    expect(readFileSync(loop.file, "latin1").slice(0, 8)).toBe("changed\n");
    // Nobody has the device any more.
    expect(
      await pod.run("more", "head -c 7 /dev/more", withDevices([loop, "/dev/more", "rwm"])),
    ).toMatchObject({
      output: "changed",
    });
  });

  test("a container that fails gives its block device back", async () => {
    await expect(
      pod.create("bad", ["/no/such/program"], withDevices([loop, "/dev/xvda", "rwm"])),
    ).rejects.toMatchObject({ message: expect.stringContaining("/no/such/program") });

    expect(await disks()).toBe("/sys/block/vda\n");
  });

  test("an update beyond the VM's size grows it", async () => {
    const memory = "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo";
    const before = Number((await first.sh(memory)).output);
    expect(await first.sh("nproc")).toMatchObject({ output: "1\n" });

    await first.container.update(
      Buffer.from(
        JSON.stringify({ memory: { limit: 800 * mebibyte }, cpu: { quota: 150_000, period: 100_000 } }),
      ),
    );

    // As many as the host has, at most.
    expect(await first.sh("nproc")).toMatchObject({ output: `${Math.min(2, cpus().length)}\n` });
    expect(Number((await first.sh(memory)).output)).toBeGreaterThan(before + 550 * 1024);
    expect(await first.sh("cat /sys/fs/cgroup/memory.max")).toMatchObject({ output: `${800 * mebibyte}\n` });
    // In one buffer, for which the VM had no room before.
    expect(await first.sh("dd if=/dev/zero of=/dev/null bs=300M count=1 2>/dev/null")).toMatchObject({
      exitCode: 0,
    });
  });

  test("an update beyond what the VM may grow to is refused", async () => {
    const limit = 1024 ** 5;

    await expect(
      first.container.update(Buffer.from(JSON.stringify({ memory: { limit } }))),
    ).rejects.toMatchObject({
      code: "resource_exhausted",
      message: expect.stringContaining("can have at most"),
    });
  });
});
