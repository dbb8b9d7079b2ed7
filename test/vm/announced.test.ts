// A VM is begun with `start`, before anybody has asked for its container: what becomes of it when nobody does.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import type { Socket } from "node:net";
import { expect, test } from "vitest";
import { signalProcess } from "../../src/base/processes.ts";
import { deleteShim, type ShimProgram, startShim } from "../../src/client/shim-program.ts";
import { readRecord } from "../../src/shim/record.ts";
import { buildPath } from "../support/cli-build.ts";
import { expectNoLeaks, takeSnapshot } from "../support/leaks.ts";
import { markedProcesses } from "../support/leaks-processes.ts";
import { patient } from "../support/patience.ts";
import { vmmProgram, withSuiteSettings } from "../support/suite-settings.ts";
import { createTempDir, type TempDir } from "../support/temp-dir.ts";

const namespaces = ["mount", "pid", "ipc", "uts", "network"].map((type) => ({ type }));
const spec = {
  ociVersion: "1.1.0",
  process: { args: ["true"], cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } },
  root: { path: "rootfs" },
  linux: { namespaces },
};

/** The bundle of a container that nobody creates. */
function announce(dir: TempDir): ShimProgram {
  mkdirSync(dir.join("bundle/rootfs"), { recursive: true });
  // What a state directory keeps.
  for (const name of [".shims", ".user-ids"]) mkdirSync(dir.join("run", name), { recursive: true });
  writeFileSync(dir.join("bundle/config.json"), JSON.stringify(spec));
  writeFileSync(dir.join("config.toml"), withSuiteSettings(`state_directory = "${dir.join("run")}"`));
  return {
    path: buildPath("bin/containerd-shim-caisson-v2"),
    namespace: dir.token,
    containerId: dir.token,
    bundle: dir.join("bundle"),
    config: dir.join("config.toml"),
  };
}

function vmms(dir: TempDir): number {
  return markedProcesses({ marks: [dir.token] }, new RegExp(`${vmmProgram}\\S* `)).length;
}

test.for(["at once", "when the VM runs", "when its daemon is dead"] as const)(
  "delete leaves nothing of a container that never came: %s",
  async (when) => {
    await using dir = createTempDir();
    const shim = announce(dir);
    const before = await takeSnapshot({ marks: [dir.token], directories: [dir.join("run")] });

    await startShim(shim, { signal: AbortSignal.timeout(patient(20_000)) });
    if (when !== "at once") await expect.poll(() => vmms(dir), { timeout: patient(20_000) }).toBe(1);
    if (when === "when its daemon is dead") {
      const record = await readRecord(dir.join("run"), shim.namespace, shim.containerId);
      if (record !== undefined) signalProcess(record.daemon, "SIGKILL");
    }
    await deleteShim(shim);

    await expectNoLeaks(before);
    expect(readdirSync(dir.join("run/.user-ids"))).toEqual([]);
  },
);

test("a daemon whose launcher dies before it has said that the daemon serves takes its VM along", async () => {
  await using dir = createTempDir();
  const { namespace, containerId, bundle, config } = announce(dir);
  const before = await takeSnapshot({ marks: [dir.token], directories: [dir.join("run")] });

  const flags = ["-bundle", bundle, "-namespace", namespace, "-id", containerId, "-address", "", "daemon"];
  const daemon = spawn(
    buildPath("libexec/node"),
    ["--no-warnings", buildPath("lib/containerd-shim-caisson-v2.js"), ...flags],
    {
      stdio: ["ignore", "ignore", "inherit", "pipe"],
      env: { PATH: process.env["PATH"], CAISSON_CONFIG: config },
    },
  );
  const launcher = daemon.stdio[3] as Socket;
  launcher.write('{"stdin":""}\n');
  await once(launcher, "data");
  await expect.poll(() => vmms(dir), { timeout: patient(20_000) }).toBe(1);
  launcher.destroy();
  await once(daemon, "exit");

  await expectNoLeaks({ ...before, scope: { ...before.scope, directories: [dir.join("run", namespace)] } });
  expect(readdirSync(dir.join("run/.user-ids"))).toEqual([]);
});
