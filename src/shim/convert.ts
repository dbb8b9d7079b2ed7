import { isAbsolute } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { checkId } from "../base/ids.ts";
import { caisson } from "../gen/bootstrap.js";
import { containerd, type google } from "../gen/containerd.js";
import { int64 } from "../gen/int64.ts";
import { containerd as runc } from "../gen/options.js";
import type {
  Container,
  CreateContainerRequest,
  ExecRequest,
  ExitStatus,
  Mount,
  Process,
  ProcessState,
  Stdio,
} from "../sandbox/model.ts";
import type { TaskOptions } from "./options.ts";

// Wire types of the task service ↔ types of the model.

type V2 = typeof containerd.task.v2;
type Decoded<Name extends keyof V2> = V2[Name] extends { decode(bytes: Uint8Array): infer Message }
  ? Message
  : never;

const { Status } = containerd.v1.types;
const { ExecSpec } = caisson.shim.v1;
/** Of our own OCI command line. */
const execSpecType = "caisson.shim.v1.ExecSpec";
const processTypeUrl = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const resourcesTypeUrl = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
const processDetailsTypeUrl = "containerd.runc.v1.ProcessDetails";
const maxSignal = 64;

export function toCreateRequest(
  request: Decoded<"CreateTaskRequest">,
  options: TaskOptions,
): CreateContainerRequest {
  if (request.checkpoint !== "") {
    throw new RuntimeError("unimplemented", `Cannot create "${request.id}": checkpoints cannot be restored`);
  }
  if (!isAbsolute(request.bundle) || request.bundle.includes("\0")) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot create "${request.id}": bundle ${JSON.stringify(request.bundle)}, expected an absolute path`,
    );
  }
  return {
    containerId: checkId("container id", request.id),
    bundle: request.bundle,
    rootfs: (request.rootfs ?? []).map(toMount),
    stdio: toStdio(request),
    noPivotRoot: options.noPivotRoot,
    notify: options.own?.notify ?? false,
    environment: options.own?.environment ?? [],
  };
}

export function toExecRequest(request: Decoded<"ExecProcessRequest">): ExecRequest & {
  readonly own?: { readonly descriptorsPid: number; readonly descriptors: readonly number[] };
} {
  const execId = checkId("exec id", request.execId);
  if (execId === request.id) {
    throw new RuntimeError("already_exists", `Cannot register exec "${execId}": its container has this id`);
  }
  const { type_url: typeUrl, value } = request.spec ?? {};
  if (typeUrl === execSpecType && value) {
    const { process, descriptorsPid, descriptors } = ExecSpec.decode(value);
    return { execId, stdio: toStdio(request), processJson: process, own: { descriptorsPid, descriptors } };
  }
  if (typeUrl !== processTypeUrl || !value || value.length === 0) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot register exec "${execId}": its spec has the type "${typeUrl ?? ""}", expected "${processTypeUrl}"`,
    );
  }
  return { execId, stdio: toStdio(request), processJson: value };
}

/**
 * The JSON of the OCI `LinuxResources` to set; the annotations of an update are free text for nobody.
 *
 * @throws invalid_argument  resources of another type, or none
 */
export function toLinuxResources(request: Decoded<"UpdateTaskRequest">): Uint8Array {
  const { type_url: typeUrl, value } = request.resources ?? {};
  if (typeUrl === resourcesTypeUrl && value && value.length > 0) return value;
  throw new RuntimeError(
    "invalid_argument",
    `Cannot update "${request.id}": its resources have the type "${typeUrl ?? ""}", expected "${resourcesTypeUrl}"`,
  );
}

/** @throws invalid_argument  not a Linux signal */
export function toSignal(signal: number): number {
  if (signal >= 1 && signal <= maxSignal) return signal;
  throw new RuntimeError("invalid_argument", `Cannot send signal ${signal}: expected 1 to ${maxSignal}`);
}

export function toStateResponse(
  container: Container,
  process: Process,
): containerd.task.v2.StateResponse.$Properties {
  const { state, stdio } = process;
  const exit = exitOf(state);
  return {
    id: container.id,
    bundle: container.bundle,
    pid: process.pid,
    status: toStatus(state),
    stdin: stdio.stdin,
    stdout: stdio.stdout,
    stderr: stdio.stderr,
    terminal: stdio.terminal,
    exitStatus: exit?.exitCode ?? 0,
    exitedAt: exit === undefined ? null : toTimestamp(exit.exitedAt),
    execId: process.execId,
  };
}

/**
 * The processes of a container: its init and its execs. The guest's processes have no pid on the host; the sandbox's
 * stands for each of them. Never empty: a container without processes counts as lost after a restart of containerd.
 */
export function toProcessInfos(
  container: Pick<Container, "init" | "runningExecs">,
): containerd.v1.types.ProcessInfo.$Properties[] {
  const { init, runningExecs } = container;
  const execs = runningExecs.map(({ execId }) => ({
    // A starting exec has none of its own yet.
    pid: init.pid,
    info: {
      type_url: processDetailsTypeUrl,
      value: runc.runc.v1.ProcessDetails.encode({ execId }).finish(),
    },
  }));
  return [{ pid: init.pid }, ...execs];
}

export function toExit(exit: ExitStatus): {
  exitStatus: number;
  exitedAt: google.protobuf.Timestamp.$Properties;
} {
  return { exitStatus: exit.exitCode, exitedAt: toTimestamp(exit.exitedAt) };
}

export function toTimestamp(date: Date): google.protobuf.Timestamp.$Properties {
  const milliseconds = date.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds: int64(BigInt(seconds)), nanos: Math.round((milliseconds - seconds * 1000) * 1e6) };
}

export function fromMount(mount: Mount): containerd.types.Mount.$Properties {
  return { type: mount.type, source: mount.source, target: mount.target, options: [...mount.options] };
}

function toMount(mount: containerd.types.Mount.$Properties): Mount {
  const { type, source, target, options } = mount;
  return { type: type ?? "", source: source ?? "", target: target ?? "", options: options ?? [] };
}

function toStdio({ stdin, stdout, stderr, terminal }: Stdio): Stdio {
  return { stdin, stdout, stderr, terminal };
}

function exitOf(state: ProcessState): ExitStatus | undefined {
  return "exit" in state ? state.exit : undefined;
}

function toStatus(state: ProcessState): containerd.v1.types.Status {
  switch (state.tag) {
    case "created":
    case "starting":
      return Status.CREATED;
    case "running":
      return Status.RUNNING;
    case "pausing":
      return Status.PAUSING;
    case "paused":
      return Status.PAUSED;
    case "stopped":
    case "deleted":
      return Status.STOPPED;
  }
}
