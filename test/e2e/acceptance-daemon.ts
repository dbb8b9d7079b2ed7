import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { containerd as messages } from "../../src/gen/bootstrap.js";
import { codeOf } from "../../src/base/errors.ts";
import { taskMethods } from "../../src/shim/task-api.ts";
import { TtrpcClient } from "../../src/ttrpc/client.ts";
import { buildPath } from "../support/cli-build.ts";
import { start } from "../support/cli-run.ts";
import type { Containerd } from "../support/containerd.ts";
import { patient } from "../support/patience.ts";

export const taskV2 = "containerd.task.v2.Task";
export const taskV3 = "containerd.task.v3.Task";
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process";

type Table = typeof taskMethods;
type RequestOf<Name extends keyof Table> = Parameters<Table[Name]["request"]["encode"]>[0];
type ResponseOf<Name extends keyof Table> = ReturnType<Table[Name]["response"]["decode"]>;

/** The daemon of a task, called as containerd calls it. */
export interface Daemon extends AsyncDisposable {
  readonly client: TtrpcClient;
  readonly socketPath: string;
  call<Name extends keyof Table>(name: Name, request: RequestOf<Name>): Promise<ResponseOf<Name>>;
  /** The code of the error that the call ends with, or "ok". */
  code<Name extends keyof Table>(name: Name, request: RequestOf<Name>): Promise<string>;
}

export function bundleOf(containerd: Containerd, id: string): string {
  return containerd.dir.join("state/io.containerd.runtime.v2.task", containerd.namespace, id);
}

/** Where a bundle's `address` file says that its daemon serves. */
export function addressOf(bundle: string): string {
  const text = readFileSync(join(bundle, "address"), "utf8");
  if (!/^unix:\/\/\/\S+$/.test(text)) throw new Error(`Not an address: ${JSON.stringify(text)}`);
  return text.slice("unix://".length);
}

export async function connectDaemon(socketPath: string): Promise<Daemon> {
  const client = await TtrpcClient.connect(socketPath, { timeoutMs: patient(5000) });
  const call: Daemon["call"] = (name, request) =>
    client.call(taskV2, taskMethods[name] as never, request as never);
  return {
    client,
    socketPath,
    call,
    code: (name, request) =>
      call(name, request).then(
        () => "ok",
        (error: unknown) => codeOf(error),
      ),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}

export function daemonOf(containerd: Containerd, id: string): Promise<Daemon> {
  return connectDaemon(addressOf(bundleOf(containerd, id)));
}

/** The OCI process of an exec. */
export function execSpec(args: readonly string[], more: object = {}) {
  const spec = { args, cwd: "/", env: ["PATH=/bin:/usr/bin"], user: { uid: 0, gid: 0 }, ...more };
  return { type_url: processType, value: Buffer.from(JSON.stringify(spec)) };
}

/**
 * A bundle of our own beside a task's: its spec with other arguments, its root file system bound. So a container can be
 * in any state that `ctr` does not leave it in.
 */
export function makeBundle(
  containerd: Containerd,
  taskId: string,
  id: string,
  args: readonly string[],
  changes: { readonly terminal?: boolean; readonly annotations?: Readonly<Record<string, string>> } = {},
) {
  const bundle = containerd.dir.join("own", taskId, id);
  mkdirSync(join(bundle, "rootfs"), { recursive: true });
  const spec = JSON.parse(readFileSync(join(bundleOf(containerd, taskId), "config.json"), "utf8")) as {
    process: Record<string, unknown>;
    annotations?: Record<string, string>;
    linux: Record<string, unknown>;
  };
  spec.process["args"] = args;
  spec.process["terminal"] = changes.terminal ?? false;
  spec.linux["cgroupsPath"] = `/${id}`;
  spec.annotations = { ...spec.annotations, ...changes.annotations };
  writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
  const source = join(bundleOf(containerd, taskId), "rootfs");
  // stdio of a regular file is opened for appending.
  writeFileSync(join(bundle, "stdout"), "");
  return {
    id,
    bundle,
    rootfs: [{ type: "bind", source, options: ["rbind", "rw"] }],
    stdout: join(bundle, "stdout"),
    terminal: changes.terminal ?? false,
  };
}

/** What a container of ours has written so far. */
export function outputOf(request: { readonly stdout: string }): string {
  return existsSync(request.stdout) ? readFileSync(request.stdout, "utf8") : "";
}

export interface ShimOutcome {
  readonly exitCode: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
  readonly durationMs: number;
}

/** Runs the shim's executable as containerd does. */
export async function runShim(
  containerd: Containerd,
  action: readonly string[],
  options: { readonly id?: string; readonly bundle?: string; readonly stdin?: Uint8Array } = {},
): Promise<ShimOutcome> {
  const socket = containerd.dir.join("containerd.sock");
  const { id, bundle, stdin = new Uint8Array() } = options;
  const flags =
    id === undefined
      ? []
      : ["-namespace", containerd.namespace, "-address", socket, "-publish-binary", "/bin/true", "-id", id];
  if (action[0] === "delete" && bundle !== undefined) flags.push("-bundle", bundle);
  const begin = performance.now();
  await using child = start([buildPath("bin/containerd-shim-caisson-v2"), ...flags, ...action], {
    cwd: bundle !== undefined && existsSync(bundle) ? bundle : containerd.dir.path,
    env: { CAISSON_CONFIG: containerd.dir.join("caisson.toml"), TTRPC_ADDRESS: `${socket}.ttrpc` },
  });
  child.stdin.end(stdin);
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const { exitCode } = await child.ended;
  return { exitCode, stdout: Buffer.concat(chunks), stderr, durationMs: performance.now() - begin };
}

/** Runs `delete` and checks its answer: nothing but the message, 137, in containerd's time. */
export async function shimDelete(containerd: Containerd, id: string, bundle: string): Promise<number> {
  const outcome = await runShim(containerd, ["delete"], { id, bundle });
  if (outcome.exitCode !== 0 || outcome.stderr !== "") throw new Error(`delete failed: ${outcome.stderr}`);
  const { exitStatus } = messages.task.v2.DeleteResponse.decode(outcome.stdout);
  if (exitStatus !== 137) throw new Error(`delete says ${exitStatus}, not 137`);
  if (outcome.durationMs > patient(5000)) throw new Error(`delete took ${Math.round(outcome.durationMs)} ms`);
  return outcome.durationMs;
}

/** Whether somebody accepts connections there. */
export function isServed(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
