import type { ChildProcess } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { buildPath, requireFiles } from "./cli-build.ts";
import { run, type RunOptions, type RunResult, runOk } from "./cli-run.ts";
import {
  configName,
  currentBinaries,
  launchContainerd,
  removeMarked,
  socketName,
  stopContainerd,
} from "./containerd-process.ts";
import { createCriNetwork, type CriNetwork } from "./cri-network.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

/** Folder with crictl and critest; `scripts/test-tools cri` fills it. */
const criTools =
  process.env["CAISSON_TEST_CRI_TOOLS"] ?? join(homedir(), ".cache/caisson/go/cri-tools-1.36.0");

export const busyboxImage = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
const pauseImage = "registry.k8s.io/pause:3.10";

/** Runtime handlers: with a pause container, by the Sandbox API, and what we are compared with. */
export type Handler = "caisson" | "caisson-shim" | "runc";

/** A containerd with CRI and CNI of its own, in a network namespace of its own. */
export interface Cri extends AsyncDisposable {
  readonly dir: TempDir;
  readonly pid: number;
  readonly socket: string;
  /** The file of the daemon's log. */
  readonly log: string;
  /** A command line in its network namespace, where pods and streams can be reached. */
  inNetwork(...argv: string[]): string[];
  crictlArgv(...args: string[]): string[];
  crictl(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** The same, and throws unless the exit code is 0; returns stdout without the line's end. */
  crictlOk(args: readonly string[], options?: RunOptions): Promise<string>;
  /** Path of a program of cri-tools. */
  tool(name: "crictl" | "critest"): string;
  /** Ends containerd (as its unit's KillMode does: nothing else) and starts it again. */
  restart(): Promise<void>;
  /** Removes the pods that a failed test left. */
  removeAll(): Promise<void>;
  leakScope(): LeakScope;
}

/** Starts it with the images of the tests; the named ones are pulled. */
export async function startCri(images: readonly string[] = [busyboxImage]): Promise<Cri> {
  const layout = buildPath("images/cri");
  requireFiles(
    ...["containerd", "ctr"].map((name) => join(currentBinaries, name)),
    ...["crictl", "critest"].map((name) => join(criTools, name)),
    buildPath("bin/containerd-shim-caisson-v2"),
    layout,
  );
  const dir = createTempDir();
  const network = await createCriNetwork(dir, layout);
  const socket = dir.join(socketName);
  const caissonConfig = writeConfiguration(dir, network);
  const inNetwork = (...argv: string[]) => [...network.prefix, ...argv];
  const crictlArgv = (...args: string[]) => [
    ...inNetwork(join(criTools, "crictl")),
    "--config=/dev/null",
    `--runtime-endpoint=unix://${socket}`,
    `--image-endpoint=unix://${socket}`,
    "--timeout=240s",
    ...args,
  ];
  const crictl: Cri["crictl"] = (args, options) =>
    run(crictlArgv(...args), { timeoutMs: 240_000, ...options });
  const crictlOk: Cri["crictlOk"] = async (args, options) => {
    const { stdout } = await runOk(crictlArgv(...args), { timeoutMs: 240_000, ...options });
    return stdout.trimEnd();
  };
  const launch = () =>
    launchContainerd({
      binaries: currentBinaries,
      dir,
      caissonConfig,
      prefix: network.prefix,
      isServing: () => crictl(["info", "--quiet"], { timeoutMs: 20_000 }),
    });
  let child: ChildProcess = await launch();
  const cri: Cri = {
    dir,
    get pid() {
      return child.pid ?? 0;
    },
    socket,
    log: dir.join("containerd.log"),
    inNetwork,
    crictlArgv,
    crictl,
    crictlOk,
    tool: (name) => join(criTools, name),
    async restart() {
      await stopContainerd(child);
      child = await launch();
    },
    removeAll: async () => void (await crictl(["rmp", "--all", "--force"])),
    leakScope: () => ({
      marks: [dir.token],
      directories: [
        "state/io.containerd.runtime.v2.task/k8s.io",
        "state/io.containerd.sandbox.controller.v1.shim/k8s.io",
        "state/io.containerd.grpc.v1.cri/containers",
        "state/io.containerd.grpc.v1.cri/sandboxes",
        "state/io.containerd.grpc.v1.cri/netns",
        "root/io.containerd.runtime.v2.task/k8s.io",
        "root/io.containerd.sandbox.controller.v1.shim/k8s.io",
        "root/io.containerd.snapshotter.v1.overlayfs/snapshots",
        "run",
        "ipam",
      ].map((name) => dir.join(name)),
      containerdPid: child.pid ?? 0,
    }),
    async [Symbol.asyncDispose]() {
      await cri.removeAll();
      await stopContainerd(child);
      await network[Symbol.asyncDispose]();
      await removeMarked(dir.token);
      await dir[Symbol.asyncDispose]();
    },
  };
  try {
    for (const image of [pauseImage, ...images]) await crictlOk(["pull", image]);
  } catch (error) {
    await cri[Symbol.asyncDispose]();
    throw error;
  }
  return cri;
}

function writeConfiguration(dir: TempDir, network: CriNetwork): string {
  const runtime = "io.containerd.cri.v1.runtime";
  const handler = (name: Handler, type: string, sandboxer: string) => `
[plugins."${runtime}".containerd.runtimes.${name}]
runtime_type = "${type}"
sandboxer = "${sandboxer}"
pod_annotations = ["io.caisson.*"]
privileged_without_host_devices = true
`;
  writeFileSync(
    dir.join(configName),
    `version = 3
root = "${dir.join("root")}"
state = "${dir.join("state")}"
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = "${dir.join(socketName)}"
[debug]
level = "debug"
[plugins."io.containerd.internal.v1.opt"]
path = "${dir.join("opt")}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "${pauseImage}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "${network.registryDirectory}"
[plugins."${runtime}"]
netns_mounts_under_state_dir = true
[plugins."${runtime}".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "${network.cniDirectory}"
[plugins."${runtime}".containerd]
default_runtime_name = "caisson"
${handler("caisson", "io.containerd.caisson.v2", "podsandbox")}
${handler("caisson-shim", "io.containerd.caisson.v2", "shim")}
${handler("runc", "io.containerd.runc.v2", "podsandbox")}
`,
  );
  const sandboxes = dir.join("run");
  mkdirSync(sandboxes);
  const caissonConfig = dir.join("caisson.toml");
  writeFileSync(
    caissonConfig,
    `accel = "auto"\nstate_directory = "${sandboxes}"\ndata_directory = "${dir.join("data")}"\n`,
  );
  return caissonConfig;
}
