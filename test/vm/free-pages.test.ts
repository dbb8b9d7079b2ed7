import { readdirSync, readlinkSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { buildPath } from "../support/cli-build.ts";
import { createPod } from "../support/model-pod.ts";
import { patient } from "../support/patience.ts";
import { usesQemu } from "../support/suite-settings.ts";

const bytesPerMiB = 1024 ** 2;
const blockBytes = 512;

test.skipIf(!usesQemu)(
  "memory that the guest has freed goes back to the host, and what it reads is whole",
  async () => {
    // Debian's has the driver, however old the tuned kernel is that lies here.
    await using pod = createPod({ kernelPath: buildPath("guest/vmlinux") });
    const made = await pod.start("");
    const { container } = made;
    const beforeMiB = guestMiB(container.init.pid);

    const use = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40; sha256sum /bin/busybox";
    const used = await made.sh(use);
    const usedMiB = guestMiB(container.init.pid);
    expect(used.exitCode).toBe(0);
    expect(usedMiB).toBeGreaterThan(beforeMiB + 20);
    expect(await made.sh("rm /dev/shm/x")).toMatchObject({ exitCode: 0 });

    // The kernel reports every two seconds.
    const end = performance.now() + patient(20_000);
    while (guestMiB(container.init.pid) > usedMiB - 20 && performance.now() < end) await sleep(100);
    expect(guestMiB(container.init.pid)).toBeLessThanOrEqual(usedMiB - 20);
    // virtiofsd and the vsock backend have mapped what was given back, and is used again.
    const again = await made.sh(use);
    expect(guestMiB(container.init.pid)).toBeGreaterThan(beforeMiB + 20);
    expect(sumOf(again.output)).toBe(sumOf(used.output));
  },
);

/** What the memory of a VM takes on the host. */
function guestMiB(vmmPid: number): number {
  const directory = `/proc/${vmmPid}/fd`;
  const fd = readdirSync(directory).find((name) =>
    readlinkSync(`${directory}/${name}`).startsWith("/memfd:memory-backend"),
  );
  if (fd === undefined) throw new Error(`Process ${vmmPid} has no memfd`);
  return (statSync(`${directory}/${fd}`).blocks * blockBytes) / bytesPerMiB;
}

function sumOf(output: string): string | undefined {
  const sum = /^[0-9a-f]{64} .*$/m.exec(output)?.[0];
  expect(sum).toBeDefined();
  return sum;
}
