import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { readRegularFile } from "../base/files.ts";
import { identify } from "../base/processes.ts";
import { parseStrictJson } from "../base/strict-json.ts";
import { SignalRelay } from "../client/signal-relay.ts";
import type { TaskClient } from "../client/task-client.ts";
import { openBundle } from "./bundle.ts";
import { handedFiles } from "./descriptors.ts";
import { writePidFile } from "./create.ts";
import { type Host, requireRoot } from "./host.ts";
import { probe } from "./probe.ts";
import { forgetExec, noteExec, openProxy, proxyFds, type ProxyRequest, spawnProxy } from "./proxy-process.ts";
import type { ContainerRecord } from "./store.ts";
import { terminalKind } from "./terminal-kind.ts";

/** What is different from the container's own process. */
export interface ProcessChanges {
  readonly args: readonly string[];
  readonly cwd: string | undefined;
  readonly env: readonly string[];
  /** "uid[:gid]" */
  readonly user: string | undefined;
  readonly additionalGids: readonly number[];
  readonly terminal: boolean;
  readonly noNewPrivileges: boolean;
  readonly capabilities: readonly string[];
}

export interface ExecOptions {
  readonly id: string;
  /** A file with an OCI `Process`, or what to change of the container's own. */
  readonly process: string | ProcessChanges;
  readonly detached: boolean;
  readonly consoleSocket: string | undefined;
  readonly pidFile: string | undefined;
  readonly preserveFds: number;
}

/** An OCI `Process`; checked by the guest's runtime. */
type ProcessSpec = Readonly<Record<string, unknown>> & { readonly terminal?: boolean };

const maxSpecBytes = 4 * 1024 * 1024;

/** `exec`. Returns the exit code of the process, or 0 when it was detached. */
export async function exec(host: Host, options: ExecOptions): Promise<number> {
  requireRoot();
  // The sockets of a service manager are for the container's first process only, as with runc.
  const { descriptors } = handedFiles({}, options.preserveFds);
  const record = await host.containers.load(options.id);
  const spec = await processSpec(record, options.process);
  const terminal = terminalKind({
    terminal: spec.terminal === true,
    consoleSocket: options.consoleSocket,
    detached: options.detached,
  });
  const { status, client } = await probe(host, record);
  if (client === undefined || status === "stopped" || status === "paused") {
    await client?.[Symbol.asyncDispose]();
    throw new RuntimeError("failed_precondition", `cannot exec in a ${status} container`);
  }
  await using connected = client;
  const execId = `e${randomBytes(6).toString("hex")}`;
  const paths = host.containers.paths(options.id);
  const request: ExecRequest = {
    address: record.address,
    sandboxId: host.containers.sandboxName(options.id).sandboxId,
    terminal,
    ioDirectory: join(paths.execs, execId),
    process: { tag: "exec", execId, spec, descriptors },
  };
  const run = options.detached ? runDetached : runHere;
  return await run(host, options, connected, request);
}

type ExecRequest = ProxyRequest & { readonly process: { readonly tag: "exec" } };

async function runDetached(
  host: Host,
  { id, pidFile }: ExecOptions,
  _client: TaskClient,
  request: ExecRequest,
): Promise<number> {
  const { execId, descriptors } = request.process;
  await using proxy = spawnProxy(host, id, request.terminal, { descriptors });
  await noteExec(host.containers.paths(id).execs, execId, proxy.identity);
  const process = { ...request.process, descriptors: proxyFds(descriptors.length) };
  await proxy.open({ ...request, process });
  if (pidFile !== undefined) await writePidFile(pidFile, proxy.identity.pid);
  await proxy.release();
  return 0;
}

async function runHere(
  host: Host,
  { id, pidFile }: ExecOptions,
  client: TaskClient,
  request: ExecRequest,
): Promise<number> {
  using relay = new SignalRelay();
  const { execId } = request.process;
  const own = identify(process.pid) ?? { pid: process.pid, startTicks: "" };
  await noteExec(host.containers.paths(id).execs, execId, own);
  using proxy = await openProxy(client, request);
  proxy.attach(relay);
  if (pidFile !== undefined) await writePidFile(pidFile, process.pid);
  const exitCode = await proxy.ended();
  await forgetExec(client, request.ioDirectory, execId);
  return exitCode;
}

async function processSpec(record: ContainerRecord, wanted: string | ProcessChanges): Promise<ProcessSpec> {
  if (typeof wanted !== "string") {
    const { spec } = await openBundle(record.bundle);
    return changed(spec.process as unknown as ProcessSpec, wanted);
  }
  const document = parseStrictJson(await readRegularFile(wanted, maxSpecBytes), `"${wanted}"`);
  if (typeof document === "object" && document !== null && !Array.isArray(document))
    return document as ProcessSpec;
  throw new RuntimeError("invalid_argument", `"${wanted}" is no process specification`);
}

/** The container's own process with what was asked for changed, as runc does it. */
export function changed(own: ProcessSpec, changes: ProcessChanges): ProcessSpec {
  const { args, cwd, env, user, additionalGids, terminal, noNewPrivileges, capabilities } = changes;
  const ownEnv = Array.isArray(own["env"]) ? own["env"] : [];
  return {
    ...own,
    args,
    terminal,
    ...(cwd === undefined ? {} : { cwd }),
    env: [...ownEnv, ...env],
    ...(noNewPrivileges ? { noNewPrivileges: true } : {}),
    ...(capabilities.length === 0
      ? {}
      : { capabilities: moreCapabilities(own["capabilities"], capabilities) }),
    ...(user === undefined && additionalGids.length === 0
      ? {}
      : { user: changedUser(own["user"], user, additionalGids) }),
  };
}

function moreCapabilities(own: unknown, added: readonly string[]): object {
  const sets = (typeof own === "object" && own !== null ? own : {}) as Record<string, unknown>;
  const named = (name: string) => (Array.isArray(sets[name]) ? (sets[name] as string[]) : []);
  const union = (name: string) => [name, [...new Set([...named(name), ...added])]] as const;
  return {
    ...Object.fromEntries(["bounding", "effective", "permitted"].map(union)),
    ...Object.fromEntries(["inheritable", "ambient"].map((name) => [name, named(name)])),
  };
}

function changedUser(own: unknown, text: string | undefined, additionalGids: readonly number[]): object {
  const before = (typeof own === "object" && own !== null ? own : {}) as Record<string, unknown>;
  const [, uid, gid] = /^(\d+)(?::(\d+))?$/.exec(text ?? "") ?? [];
  if (text !== undefined && uid === undefined) {
    const [wrongUid = "", wrongGid = ""] = text.split(":");
    const [word, kind] = /^\d+$/.test(wrongUid) ? [wrongGid, "gid"] : [wrongUid, "uid"];
    throw new RuntimeError(
      "invalid_argument",
      `parsing ${word} as int for ${kind} failed: expected UID[:GID] in numbers`,
    );
  }
  const ownGids = Array.isArray(before["additionalGids"]) ? (before["additionalGids"] as number[]) : [];
  return {
    ...before,
    ...(uid === undefined ? {} : { uid: Number(uid) }),
    ...(gid === undefined ? {} : { gid: Number(gid) }),
    ...(additionalGids.length === 0 ? {} : { additionalGids: [...ownGids, ...additionalGids] }),
  };
}
