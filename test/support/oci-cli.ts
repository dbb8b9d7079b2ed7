import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { buildPath, requireFiles } from "./cli-build.ts";
import { run, type RunOptions, type RunResult, type Running, runOk, start } from "./cli-run.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { withSuiteSettings } from "./suite-settings.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

const program = buildPath("bin/caisson-oci");
const layout = buildPath("images/busybox");

export interface BundleOptions {
  readonly terminal?: boolean;
  readonly env?: readonly string[];
  readonly resources?: object;
  readonly cgroupsPath?: string;
}

/** `build/bin/caisson-oci` with a configuration, a root and a state directory of the test's own. */
export interface OciCli extends AsyncDisposable {
  readonly dir: TempDir;
  /** A container id that is unique on the machine. */
  id(name: string): string;
  /** Makes a bundle of busybox whose process runs `args`; all bundles share one root file system. */
  bundle(name: string, args: readonly string[], options?: BundleOptions): string;
  run(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** The same, and throws unless the exit code is 0. */
  ok(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** `launcher`: words that stand before it. */
  start(args: readonly string[], launcher?: readonly string[]): Running;
  /** `args` run by sh with stdin, stdout and stderr on /dev/null and the file of that name: what detaches keeps them. */
  detached(
    args: readonly string[],
    outputPath: string,
    extraEnv?: Readonly<Record<string, string>>,
    launcher?: readonly string[],
  ): Promise<RunResult>;
  state(id: string): Promise<{ readonly status: string; readonly pid: number }>;
  leakScope(): LeakScope;
  removeAll(): Promise<void>;
}

/** Runs what follows the path of a file with its output there, and nothing on stdin. */
const toFile = ["sh", "-c", 'out=$1; shift; exec "$@" </dev/null >"$out" 2>&1', "sh"];

export async function createOciCli(): Promise<OciCli> {
  requireFiles(program, layout);
  const dir = createTempDir();
  const config = dir.join("caisson.toml");
  const [state, root, bundles] = [dir.join("run"), dir.join("root"), dir.join("bundles")];
  for (const path of [state, root, bundles]) mkdirSync(path);
  // They stay when the last container goes.
  for (const name of [".shims", ".user-ids"]) mkdirSync(`${state}/${name}`, { mode: 0o700 });
  writeFileSync(
    config,
    withSuiteSettings(`state_directory = "${state}"\ndata_directory = "${dir.join("data")}"`),
  );
  await runOk(["umoci", "unpack", "--image", `${layout}:latest`, dir.join("unpacked")]);
  renameSync(dir.join("unpacked", "rootfs"), dir.join("rootfs"));
  const argv = [program, "--root", root];
  // What the test runner was started with is not for the containers.
  const env = { CAISSON_CONFIG: config, NOTIFY_SOCKET: "", LISTEN_FDS: "" };

  const cli: OciCli = {
    dir,
    id: (name) => `${dir.token}-${name}`,
    bundle: (name, args, options = {}) => {
      const path = dir.join("bundles", name);
      mkdirSync(path);
      writeFileSync(`${path}/config.json`, JSON.stringify(specOf(dir.join("rootfs"), args, options)));
      return path;
    },
    run: (args, options) => run([...argv, ...args], { ...options, env: { ...env, ...options?.env } }),
    ok: (args, options) => runOk([...argv, ...args], { ...options, env: { ...env, ...options?.env } }),
    start: (args, launcher = []) => start([...launcher, ...argv, ...args], { env }),
    detached: (args, outputPath, extraEnv, launcher = []) =>
      run([...toFile, outputPath, ...launcher, ...argv, ...args], {
        env: { ...env, ...extraEnv },
      }),
    state: async (id) => JSON.parse((await cli.ok(["state", id])).stdout) as { status: string; pid: number },
    leakScope: () => ({ marks: [dir.token], directories: [state, root] }),
    removeAll: async () => {
      const { stdout } = await cli.run(["list", "-q"]);
      for (const id of stdout.split("\n").filter((line) => line !== ""))
        await cli.run(["delete", "--force", id]);
    },
    [Symbol.asyncDispose]: async () => {
      await cli.removeAll();
      await dir[Symbol.asyncDispose]();
    },
  };
  return cli;
}

function specOf(
  rootfs: string,
  args: readonly string[],
  { terminal, env, resources, cgroupsPath }: BundleOptions,
) {
  return {
    ociVersion: "1.0.2",
    process: {
      terminal: terminal ?? false,
      user: { uid: 0, gid: 0 },
      args,
      env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", ...(env ?? [])],
      cwd: "/",
      capabilities: { bounding: ["CAP_KILL"], effective: ["CAP_KILL"], permitted: ["CAP_KILL"] },
      noNewPrivileges: true,
    },
    root: { path: rootfs },
    hostname: "oci",
    annotations: { "org.example.test": "yes" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
      },
    ],
    linux: {
      ...(resources === undefined ? {} : { resources }),
      ...(cgroupsPath === undefined ? {} : { cgroupsPath }),
      namespaces: ["pid", "network", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type })),
    },
  };
}
