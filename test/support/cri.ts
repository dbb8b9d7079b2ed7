import type { ChildProcess } from "node:child_process";
import { homedir } from "node:os";
import { join } from "node:path";
import { buildPath, requireFiles } from "./cli-build.ts";
import { run, type RunOptions, type RunResult, runOk } from "./cli-run.ts";
import {
  currentBinaries,
  launchContainerd,
  removeMarked,
  socketName,
  stopContainerd,
} from "./containerd-process.ts";
import { type ConfigVersion, pauseImage, writeCriConfiguration } from "./cri-config.ts";
import { createCriNetwork } from "./cri-network.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

/** Folder with crictl and critest; `scripts/test-tools cri` fills it. */
const criTools =
  process.env["CAISSON_TEST_CRI_TOOLS"] ?? join(homedir(), ".cache/caisson/go/cri-tools-1.36.0");

export const busyboxImage = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

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

export interface CriOptions {
  /** Folder with the programs of another containerd. */
  readonly binaries?: string;
  readonly configVersion?: ConfigVersion;
  /** Of Caisson's configuration. */
  readonly settings?: string;
}

/** Starts it, with the images that most tests need. */
export async function startCri(options: CriOptions = {}): Promise<Cri> {
  const { binaries = currentBinaries, configVersion = 3, settings = "" } = options;
  const layout = buildPath("images/cri");
  requireFiles(
    ...["containerd", "ctr"].map((name) => join(binaries, name)),
    ...["crictl", "critest"].map((name) => join(criTools, name)),
    buildPath("bin/containerd-shim-caisson-v2"),
    layout,
  );
  const dir = createTempDir();
  const network = await createCriNetwork(dir, layout);
  const socket = dir.join(socketName);
  const caissonConfig = writeCriConfiguration(dir, network, { version: configVersion, settings });
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
      binaries,
      dir,
      caissonConfig,
      prefix: network.prefix,
      isServing: () => crictl(["info", "--quiet"], { timeoutMs: 20_000 }),
    });
  const release = async () => {
    await network[Symbol.asyncDispose]();
    await removeMarked(dir.token);
    await dir[Symbol.asyncDispose]();
  };
  let child: ChildProcess = await launch().catch(async (error: unknown) => {
    await release();
    throw error;
  });
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
      await release();
    },
  };
  try {
    for (const image of [pauseImage, busyboxImage]) await crictlOk(["pull", image]);
  } catch (error) {
    await cri[Symbol.asyncDispose]();
    throw error;
  }
  return cri;
}
