import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { ignoreCode, RuntimeError } from "../base/errors.ts";
import { readRegularFile } from "../base/files.ts";
import { attach } from "./attach.ts";
import { commandFailure } from "./failure.ts";
import { type Host, requireRoot } from "./host.ts";
import { property } from "../base/json.ts";
import { probe } from "./liveness.ts";
import { ProcessIo } from "../client/process-io.ts";
import { SignalRelay } from "../client/signal-relay.ts";
import { mergeEnvironment, type ProcessSpec } from "../image/spec.ts";
import { checkTerminal } from "./terminal.ts";
import { resolveUser } from "../image/users.ts";

/** The arguments of `exec`, checked. */
export interface ExecOptions {
  readonly containerId: string;
  readonly args: readonly string[];
  readonly interactive: boolean;
  readonly terminal: boolean;
  readonly env: readonly string[];
  readonly workingDirectory?: string;
  readonly user?: string;
}

const maxSpecBytes = 4 * 1024 * 1024;

/** `caisson exec`. Returns the exit code. */
export async function exec(host: Host, options: ExecOptions): Promise<number> {
  requireRoot();
  checkTerminal(options);
  const { containerId, interactive, terminal } = options;
  using relay = new SignalRelay();
  const record = await host.containers.load(containerId);
  const paths = host.containers.paths(containerId);
  const live = await probe(record, paths.directory);
  if (live.tag !== "running") {
    throw new RuntimeError(
      "failed_precondition",
      `Cannot run a command in container "${containerId}": it is not running, it is ${live.tag}`,
    );
  }
  await using client = live.client;
  const spec = planExec(await readProcess(paths.bundle), options);
  const user = options.user === undefined ? spec.user : await resolveUser(record.userRootfs, options.user);
  const execId = `e${randomBytes(6).toString("hex")}`;
  using io = new ProcessIo({ directory: join(paths.directory, execId), stdin: interactive, terminal });
  await client.exec(execId, { ...spec, user }, io.stdio);
  try {
    const exit = await attach({ client, execId, io, relay, interactive, terminal });
    return exit.exitCode;
  } catch (error) {
    throw commandFailure(error, options.args[0] ?? "");
  } finally {
    // A process that is abandoned half-way (we were interrupted) is ended with it; a dead daemon has nothing to forget.
    await client.delete(execId).catch(ignoreCode("unavailable", "failed_precondition"));
  }
}

/** The container's own process with another command: everything that is not given stays as it is there. */
export function planExec(own: ProcessSpec, options: ExecOptions): ProcessSpec {
  const { terminal, args } = options;
  return {
    ...own,
    terminal,
    args,
    env: mergeEnvironment([...own.env, ...(terminal ? ["TERM=xterm"] : []), ...options.env]),
    cwd: options.workingDirectory ?? own.cwd,
  };
}

/** The bundle is ours alone, so what is in it is what we wrote. */
async function readProcess(bundle: string): Promise<ProcessSpec> {
  const text = (await readRegularFile(join(bundle, "config.json"), maxSpecBytes)).toString("utf8");
  return property(JSON.parse(text), "process") as ProcessSpec;
}
