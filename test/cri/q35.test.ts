import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { testAll } from "../support/cli-level.ts";
import { type Cri, type Handler, startCri } from "../support/cri.ts";
import { runPod } from "../support/cri-pod.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { attachLoop } from "../support/loops.ts";

const mebibyte = 1024 ** 2;
let cri: Cri;
beforeAll(async () => {
  cri = await startCri({ settings: 'allowed_annotations = ["io.caisson.machine"]' });
  await using pod = await runPod(cri, "caisson");
  await using _first = await pod.start("first", ["true"]);
});
afterAll(() => cri[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cri.leakScope(), { cleanUp: () => cri.removeAll() });

const forever = ["sleep", "3600"];
test("a pod on q35 has a block volume, and grows with an update", () => usePod("caisson"));

testAll("so does one of the Sandbox API", () => usePod("caisson-shim"));

async function usePod(handler: Handler): Promise<void> {
  using loop = attachLoop(cri.dir, `volume-${handler}`);
  await using pod = await runPod(cri, handler, { annotations: { "io.caisson.machine": "q35" } });
  const devices = [{ container_path: "/dev/xvda", host_path: loop.path, permissions: "rwm" }];
  {
    await using container = await pod.start("volume", forever, { config: { devices } });
    const script = "head -n 1 /dev/xvda; echo changed | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null";
    expect(await container.exec("sh", "-c", script)).toMatchObject({ stdout: `volume-${handler}\n` });
  }
  expect(readFileSync(loop.file, "latin1").slice(0, 8)).toBe("changed\n");

  await using app = await pod.start("app", forever);
  expect(await app.exec("sh", "-c", "ls /sys/block; nproc")).toMatchObject({ stdout: "vda\n1\n" });
  await cri.crictlOk([
    "update",
    `--memory=${900 * mebibyte}`,
    "--cpu-quota=150000",
    "--cpu-period=100000",
    app.id,
  ]);

  expect(await app.exec("nproc")).toMatchObject({ stdout: "2\n" });
  expect(Number((await app.exec("awk", "/MemTotal/ { print $2 }", "/proc/meminfo")).stdout)).toBeGreaterThan(
    900 * 1024,
  );
}

test("without q35 a block volume is refused with the reason, and so is a limit beyond the VM", async () => {
  using loop = attachLoop(cri.dir, "refused");
  await using pod = await runPod(cri, "caisson", { annotations: { "io.caisson.machine": "microvm" } });
  const devices = [{ container_path: "/dev/xvda", host_path: loop.path, permissions: "rwm" }];

  await expect(pod.start("volume", forever, { config: { devices } })).rejects.toThrow(
    /microvm.*q35.*can grow/,
  );
  await using app = await pod.start("app", forever);
  const update = await cri.crictl(["update", `--memory=${900 * mebibyte}`, app.id]);
  expect(update.stderr).toMatch(/its machine type cannot grow/);
});
