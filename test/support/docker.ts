import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildPath, requireFiles } from "./cli-build.ts";
import { run, type RunOptions, type RunResult, runOk } from "./cli-run.ts";
import { currentBinaries } from "./containerd-process.ts";
import { busyboxArchive } from "./containerd-image.ts";
import { makeEngineNetwork } from "./engine-network.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { withSuiteSettings } from "./suite-settings.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

/** A dockerd of its own with its containerd, its data and what it takes for the host's network. */
export interface Docker extends AsyncDisposable {
  readonly dir: TempDir;
  /** What it takes for the host's network. */
  readonly netnsPath: string;
  docker(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** The same, and throws unless the exit code is 0; returns its output without the last line end. */
  ok(args: readonly string[], options?: RunOptions): Promise<string>;
  /** Runs a program on what Docker takes for the host's network. */
  onHost(argv: readonly string[]): Promise<RunResult>;
  leakScope(): LeakScope;
  removeAll(): Promise<void>;
}

/** How dockerd gets to a microVM: through our OCI command line below runc's shim, or through our shim. */
export type DockerRuntime = "oci" | "shim";

/** The folders that `scripts/test-engines docker` prints: of the old dockerd, of a newer one. */
export const [oldDocker = "", newDocker = ""] = (process.env["CAISSON_TEST_DOCKERS"] ?? "").split(delimiter);

const serveTimeoutMs = 60_000;

/** Starts the dockerd in the folder, whose containers are in microVMs by default. */
export async function startDocker(programs: string, runtime: DockerRuntime): Promise<Docker> {
  requireFiles(buildPath("bin/caisson-oci"), join(programs, "dockerd"));
  const dir = createTempDir();
  const network = makeEngineNetwork(dir.token);
  for (const name of ["run", "run/.shims", "run/.user-ids"]) mkdirSync(dir.join(name));
  const socket = `unix://${dir.join("docker.sock")}`;
  const argv = (args: readonly string[]) =>
    network.inside([join(programs, "docker"), "--host", socket, ...args]);
  const env = { DOCKER_CONFIG: dir.path };
  const docker: Docker["docker"] = (args, options) => run(argv(args), { ...options, env });
  const ok: Docker["ok"] = async (args, options) =>
    (await runOk(argv(args), { ...options, env })).stdout.trimEnd();
  const child = launch(programs, dir, runtime, network.inside);
  const daemon: Docker = {
    dir,
    netnsPath: network.path,
    docker,
    ok,
    onHost: (argv) => run(network.inside(argv)),
    leakScope: () => ({ marks: [dir.token], directories: [dir.join("run")] }),
    removeAll: async () => {
      const ids = (await ok(["ps", "--all", "--quiet"])).split("\n").filter((id) => id !== "");
      if (ids.length > 0) await ok(["rm", "--force", "--volumes", ...ids]);
    },
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode === null) await daemon.removeAll().catch(() => {});
      await stop(child);
      network[Symbol.dispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
  try {
    await waitUntilItServes(docker, child, dir);
    await ok(["load", "--input", await dockerArchive(dir)]);
    // What a first container makes for good (cgroups, firewall rules) is no leak of the tests that follow.
    await ok(["run", "--rm", "busybox", "true"]);
  } catch (error) {
    await daemon[Symbol.asyncDispose]();
    throw error;
  }
  return daemon;
}

function launch(
  programs: string,
  dir: TempDir,
  runtime: DockerRuntime,
  inside: (argv: readonly string[]) => string[],
): ChildProcess {
  const caissonConfig = dir.join("caisson.toml");
  writeFileSync(
    caissonConfig,
    withSuiteSettings(`state_directory = "${dir.join("run")}"\ndata_directory = "${dir.join("data")}"`),
  );
  const oci = { runtimes: { caisson: { path: buildPath("bin/caisson-oci") } }, "default-runtime": "caisson" };
  const shim = { "default-runtime": "io.containerd.caisson.v2" };
  writeFileSync(dir.join("daemon.json"), JSON.stringify(runtime === "oci" ? oci : shim));
  const options = {
    "config-file": dir.join("daemon.json"),
    "data-root": dir.join("docker"),
    "exec-root": dir.join("exec"),
    pidfile: dir.join("docker.pid"),
    host: `unix://${dir.join("docker.sock")}`,
    // Short: containers' cgroups are below it, and it is removed at the end.
    "cgroup-parent": `/${dir.token}`,
    "exec-opt": "native.cgroupdriver=cgroupfs",
    "storage-driver": "overlay2",
  };
  const flags = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
  const [file = "", ...args] = inside([join(programs, "dockerd"), ...flags]);
  const log = openSync(dir.join("docker.log"), "a");
  // The old one brings its containerd along.
  const places = [programs, ...(runtime === "shim" ? [currentBinaries] : []), buildPath("bin")];
  const child = spawn(file, args, {
    cwd: dir.path,
    env: {
      ...process.env,
      PATH: [...places, process.env["PATH"]].join(delimiter),
      CAISSON_CONFIG: caissonConfig,
    },
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  return child;
}

async function waitUntilItServes(docker: Docker["docker"], child: ChildProcess, dir: TempDir): Promise<void> {
  for (const end = performance.now() + serveTimeoutMs; ; ) {
    if ((await docker(["version"])).exitCode === 0) return;
    if (child.exitCode !== null || performance.now() > end)
      throw new Error(`dockerd does not serve: ${readFileSync(dir.join("docker.log"), "utf8").slice(-4000)}`);
    // Nothing tells when it answers; its socket is there before.
    await sleep(200);
  }
}

/** Old Docker reads no OCI archives. */
async function dockerArchive(dir: TempDir): Promise<string> {
  const path = dir.join("busybox-docker.tar");
  const source = `oci-archive:${await busyboxArchive(dir)}`;
  await runOk(["skopeo", "--insecure-policy", "copy", source, `docker-archive:${path}:busybox:latest`]);
  return path;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), 30_000);
  await exited;
  clearTimeout(timer);
}
