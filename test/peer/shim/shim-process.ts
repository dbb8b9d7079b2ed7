import { execFile } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { containerd } from "../../../src/gen/bootstrap.js";
import { isAlive, type ProcessIdentity, signalProcess } from "../../../src/base/processes.ts";
import { runtimeInfo } from "../../../src/shim/info.ts";
import { taskMethods } from "../../../src/shim/task-api.ts";
import { TtrpcClient } from "../../../src/ttrpc/client.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const root = join(import.meta.dirname, "../../..");
const name = "containerd-shim-caisson-v2";

/** An installation with the real launcher, which finds the fake program beside itself; returns the launcher's path. */
function install(dir: TempDir): string {
  for (const part of ["bin", "lib", "libexec"]) mkdirSync(dir.join("install", part), { recursive: true });
  const launcher = dir.join("install/bin", name);
  copyFileSync(join(root, "build/bin", name), launcher);
  symlinkSync(process.execPath, dir.join("install/libexec/node"));
  const program = join(root, "test/support/fake-shim.ts");
  writeFileSync(dir.join("install/lib", `${name}.js`), `await import(${JSON.stringify(program)});\n`);
  writeFileSync(dir.join("install/lib/runtime-info.bin"), runtimeInfo());
  return launcher;
}

export interface Outcome {
  readonly exitCode: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
  readonly milliseconds: number;
}

interface CommandOptions {
  readonly id: string;
  readonly stdin?: Uint8Array;
  readonly environment?: Readonly<Record<string, string>>;
  readonly flags?: readonly string[];
  readonly cwd?: string;
}

/** The shim's executable (with the sandbox that has no VM) as containerd runs it, in directories of its own. */
export interface ShimProcess extends AsyncDisposable {
  readonly dir: TempDir;
  readonly namespace: string;
  /** Makes a bundle whose process has these arguments. */
  makeBundle(id: string, args: readonly string[], annotations?: Readonly<Record<string, string>>): string;
  run(action: string, options: CommandOptions): Promise<Outcome>;
  /** Runs `start` and connects to the address that it prints. */
  start(options: CommandOptions): Promise<{ address: string; version: number; client: TtrpcClient }>;
  /** What `start` has noted about a container. */
  record(id: string): {
    readonly socketPath: string;
    readonly daemon: ProcessIdentity;
    readonly servesMany: boolean;
  };
  /** What is left in the state directory and of the bundles' sockets. */
  leftovers(): string[];
}

/** `settings` are lines for its configuration. */
export function createShimProcess(address = "", settings = ""): ShimProcess {
  const dir = createTempDir();
  const namespace = dir.token;
  const stateDirectory = dir.join("state");
  const launcher = install(dir);
  const config = dir.join("config.toml");
  writeFileSync(config, `state_directory = ${JSON.stringify(stateDirectory)}\n${settings}\n`);
  const daemons: ProcessIdentity[] = [];
  const bundleOf = (id: string) => dir.join("bundles", id);
  mkdirSync(stateDirectory);

  const run = (action: string, options: CommandOptions) =>
    new Promise<Outcome>((resolve) => {
      const begin = performance.now();
      const argv = ["-namespace", namespace, "-address", address, "-publish-binary", "", "-id", options.id];
      const child = execFile(
        launcher,
        [...argv, ...(options.flags ?? []), ...(action === "" ? [] : [action])],
        {
          cwd: options.cwd ?? bundleOf(options.id),
          env: { PATH: process.env["PATH"] ?? "", CAISSON_CONFIG: config, ...options.environment },
          encoding: "buffer",
        },
        (_, stdout, stderr) => {
          const milliseconds = performance.now() - begin;
          resolve({ exitCode: child.exitCode, stdout, stderr: stderr.toString(), milliseconds });
        },
      );
      child.stdin?.on("error", () => {
        // It ended before it had read everything.
      });
      child.stdin?.end(options.stdin ?? "");
    });
  const record = (id: string) => {
    const text = readFileSync(join(stateDirectory, ".shims", `${namespace}+${id}.json`), "utf8");
    return JSON.parse(text) as ReturnType<ShimProcess["record"]>;
  };
  return {
    dir,
    namespace,
    makeBundle: (id, args, annotations = {}) => {
      const bundle = bundleOf(id);
      mkdirSync(join(bundle, "rootfs"), { recursive: true });
      writeFileSync(join(bundle, "config.json"), JSON.stringify({ annotations, process: { args } }));
      return bundle;
    },
    run,
    start: async (options) => {
      const { exitCode, stdout, stderr } = await run("start", options);
      if (exitCode !== 0) throw new Error(`start failed: ${stderr}`);
      daemons.push(record(options.id).daemon);
      const text = stdout.toString();
      const { address, version } = text.startsWith("{")
        ? (JSON.parse(text) as { address: string; version: number })
        : { address: text, version: 2 };
      const client = await TtrpcClient.connect(address.slice("unix://".length));
      return { address, version, client };
    },
    record,
    leftovers: () =>
      readdirSync(stateDirectory, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.parentPath !== stateDirectory)
        .map((entry) => join(entry.parentPath, entry.name)),
    [Symbol.asyncDispose]: async () => {
      for (const daemon of daemons) signalProcess(daemon, "SIGKILL");
      await dir[Symbol.asyncDispose]();
    },
  };
}

export const service = "containerd.task.v2.Task";

/** Creates and starts a container, as containerd does. */
export async function runContainer(client: TtrpcClient, id: string, bundle: string): Promise<void> {
  await client.call(service, taskMethods.create, { id, bundle });
  await client.call(service, taskMethods.start, { id });
}

export function decodeDeleteResponse(outcome: Outcome) {
  return containerd.task.v2.DeleteResponse.decode(outcome.stdout);
}

/** Resolves when exactly this process has ended. */
export async function ended(daemon: ProcessIdentity, timeoutMs = 5000): Promise<boolean> {
  // No event tells of the end of a process that is no child of ours.
  for (const end = performance.now() + timeoutMs; isAlive(daemon); ) {
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
}
