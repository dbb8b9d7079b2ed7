import { join } from "node:path";
import { expect, test } from "vitest";
import { startCri } from "../support/cri.ts";
import { type ConfigVersion } from "../support/cri-config.ts";
import { runPod } from "../support/cri-pod.ts";
import { testAll } from "../support/cli-level.ts";

const [, older] = (process.env["CAISSON_TEST_CONTAINERDS"] ?? "").split(":");

async function expectPodToWork(configVersion: ConfigVersion, binaries?: string): Promise<void> {
  await using cri = await startCri({ configVersion, ...(binaries !== undefined && { binaries }) });
  const { config } = JSON.parse(await cri.crictlOk(["info"])) as {
    config: { containerd: { runtimes: Record<string, unknown> } };
  };
  expect(config.containerd.runtimes["caisson"]).toMatchObject({
    runtimeType: "io.containerd.caisson.v2",
    privileged_without_host_devices: true,
  });

  await using pod = await runPod(cri, "caisson");
  await using container = await pod.start("works", ["sleep", "3600"]);
  expect(await container.exec("echo", "works")).toMatchObject({ exitCode: 0, stdout: "works\n" });
}

testAll("deploy/containerd/caisson-v2.toml: containerd 2 takes it", () => expectPodToWork(2));

test.skipIf(older === undefined)(
  "deploy/containerd/caisson-v2.toml: pods in containerd 1.7, where each container has a start of its own",
  () => expectPodToWork(2, join(older ?? "")),
);
