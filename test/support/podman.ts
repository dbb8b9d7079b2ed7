import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildPath, requireFiles } from "./cli-build.ts";
import { run, type RunOptions, type RunResult, runOk } from "./cli-run.ts";
import { busyboxArchive } from "./containerd-image.ts";
import { makeEngineNetwork } from "./engine-network.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { withSuiteSettings } from "./suite-settings.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

export const busybox = "docker.io/library/busybox:latest";

/** A Podman of its own: storage, state, networks and the machine's network are the test's. */
export interface Podman extends AsyncDisposable {
  readonly dir: TempDir;
  /** The command line; for a terminal, say. */
  argv(...args: string[]): string[];
  podman(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** The same, and throws unless the exit code is 0; returns its output without the last line end. */
  ok(args: readonly string[], options?: RunOptions): Promise<string>;
  /** Runs a program on what Podman takes for the host's network. */
  onHost(argv: readonly string[]): Promise<RunResult>;
  leakScope(): LeakScope;
  removeAll(): Promise<void>;
}

/** Made by Podman for all its containers, and never removed. */
const parentCgroup = "libpod_parent";
/** The same for all of root's Podmans, whatever their own directories are. */
const commonDirectories = [
  "/run/containers",
  "/run/containers/networks",
  "/var/lib/containers",
  "/var/lib/containers/cache",
];

/** `helpers`: the folder that `scripts/test-engines podman` prints. */
export async function createPodman(helpers = process.env["CAISSON_TEST_PODMAN"] ?? ""): Promise<Podman> {
  requireFiles(buildPath("bin/caisson-oci"), join(helpers, "netavark"));
  const hadCgroup = cgroups().length > 0;
  const made = commonDirectories.filter((path) => !existsSync(path));
  const dir = createTempDir();
  const network = makeEngineNetwork(dir.token);
  const state = dir.join("run");
  for (const name of ["run", "run/.shims", "run/.user-ids", "net"]) mkdirSync(dir.join(name));
  const runtime = writeRuntime(dir);
  writeFileSync(dir.join("containers.conf"), configuration(dir, helpers, runtime));
  const env = { CONTAINERS_CONF: dir.join("containers.conf"), NOTIFY_SOCKET: "" };
  const places = ["--root", dir.join("root"), "--runroot", dir.join("runroot"), "--tmpdir", dir.join("tmp")];
  // Otherwise its directory is bound to itself now and then.
  const storage = ["--storage-driver", "overlay", "--storage-opt", "overlay.skip_mount_home=true"];
  const argv = (...args: string[]) => [
    ...network.inside(["podman", ...places, ...storage, "--cgroup-manager", "cgroupfs"]),
    ...args,
  ];
  const withEnv = (options: RunOptions = {}) => ({ ...options, env: { ...env, ...options.env } });
  const call = (args: readonly string[], options?: RunOptions) => run(argv(...args), withEnv(options));
  const ok = async (args: readonly string[], options?: RunOptions) =>
    (await runOk(argv(...args), withEnv(options))).stdout.trimEnd();
  const podman: Podman = {
    dir,
    argv: (...args) => ["env", `CONTAINERS_CONF=${env.CONTAINERS_CONF}`, ...argv(...args)],
    podman: call,
    ok,
    onHost: (command) => run(network.inside(command)),
    leakScope: () => ({ marks: [dir.token], directories: [state, dir.join("oci")] }),
    removeAll: async () => {
      await ok(["pod", "rm", "--all", "--force", "--time", "0"]);
      await ok(["rm", "--all", "--force", "--time", "0"]);
      await ok(["volume", "prune", "--force"]);
    },
    [Symbol.asyncDispose]: async () => {
      await podman.removeAll();
      network[Symbol.dispose]();
      if (!hadCgroup) removeCgroups();
      for (const path of made) rmSync(path, { recursive: true, force: true });
      await dir[Symbol.asyncDispose]();
    },
  };
  try {
    await ok(["load", "--input", await busyboxArchive(dir)]);
    // What a first container makes for good (mounts of the storage, a cgroup) is no leak of the tests that follow.
    await ok(["run", "--rm", busybox, "true"]);
  } catch (error) {
    await podman[Symbol.asyncDispose]();
    throw error;
  }
  return podman;
}

/** Podman gives its runtime next to nothing of its own environment. */
function writeRuntime(dir: TempDir): string {
  const config = dir.join("caisson.toml");
  writeFileSync(
    config,
    withSuiteSettings(`state_directory = "${dir.join("run")}"\ndata_directory = "${dir.join("data")}"`),
  );
  const path = dir.join("caisson-oci");
  const command = `exec "${buildPath("bin/caisson-oci")}" --root "${dir.join("oci")}" "$@"`;
  writeFileSync(path, `#!/bin/sh\nCAISSON_CONFIG="${config}" ${command}\n`, { mode: 0o755 });
  return path;
}

function configuration(dir: TempDir, helpers: string, runtime: string): string {
  return `[containers]
init_path = "${join(helpers, "catatonit")}"
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "${dir.join("net")}"
[engine]
events_logger = "file"
helper_binaries_dir = ["${helpers}"]
lock_type = "file"
runtime = "caisson"
[engine.runtimes]
caisson = ["${runtime}"]
`;
}

function cgroups(): string[] {
  return ["", ...readdirSync("/sys/fs/cgroup")]
    .map((name) => join("/sys/fs/cgroup", name, parentCgroup))
    .filter(existsSync);
}

function removeCgroups(): void {
  for (const path of cgroups()) {
    // What is below it is ours, or busy.
    execFileSync("find", [path, "-depth", "-mindepth", "1", "-type", "d", "-exec", "rmdir", "{}", "+"]);
    rmdirSync(path);
  }
}
