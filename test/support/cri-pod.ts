import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunResult } from "./cli-run.ts";
import { busyboxImage, type Cri, type Handler } from "./cri.ts";

/** A part of a CRI message, in the names of its protobuf JSON. */
export type Json = { readonly [key: string]: unknown };

export interface ContainerOptions {
  readonly image?: string;
  /** More of the `ContainerConfig`. */
  readonly config?: Json;
}

/** A container; disposing it removes it, whatever its state. */
export interface PodContainer extends AsyncDisposable {
  readonly id: string;
  readonly logPath: string;
  /** Through CRI's streaming server. */
  exec(...command: string[]): Promise<RunResult>;
  /** What CRI says of it. */
  status(): Promise<ContainerStatus>;
  /** The same once it has ended. */
  ended(): Promise<ContainerStatus>;
}

/** Of CRI's `ContainerStatus`. */
export interface ContainerStatus {
  readonly state: string;
  readonly exitCode: number;
  readonly reason: string;
}

/** A pod; disposing it removes it with its containers. */
export interface Pod extends AsyncDisposable {
  readonly id: string;
  create(name: string, command: readonly string[], options?: ContainerOptions): Promise<PodContainer>;
  /** Creates and starts one. */
  start(name: string, command: readonly string[], options?: ContainerOptions): Promise<PodContainer>;
}

const endTimeoutMs = 60_000;

/** As the kubelet asks for it where a pod does not share its processes. */
const ownProcesses = { security_context: { namespace_options: { pid: 1 } } };

let podCount = 0;

/** Runs a pod sandbox; `config` is more of the `PodSandboxConfig`. */
export async function runPod(cri: Cri, handler: Handler, config: Json = {}): Promise<Pod> {
  const name = `pod-${podCount++}`;
  const logDirectory = cri.dir.join("logs", name);
  mkdirSync(logDirectory, { recursive: true });
  const podPath = writeJson(join(logDirectory, "pod.json"), {
    metadata: { name, namespace: cri.dir.token, uid: `${cri.dir.token}-${name}`, attempt: 1 },
    log_directory: logDirectory,
    ...config,
    linux: { cgroup_parent: `/${cri.dir.token}`, ...ownProcesses, ...(config["linux"] as Json | undefined) },
  });
  const id = await cri.crictlOk(["runp", `--runtime=${handler}`, podPath]);
  const pod: Pod = {
    id,
    create: async (container, command, { image = busyboxImage, config: more = {} } = {}) => {
      const path = writeJson(join(logDirectory, `${container}.json`), {
        metadata: { name: container },
        image: { image },
        command,
        log_path: `${container}.log`,
        ...more,
        linux: { ...ownProcesses, ...(more["linux"] as Json | undefined) },
      });
      const containerId = await cri.crictlOk(["create", "--no-pull", id, path, podPath]);
      return podContainer(cri, containerId, join(logDirectory, `${container}.log`));
    },
    start: async (...args) => {
      const container = await pod.create(...args);
      try {
        await cri.crictlOk(["start", container.id]);
      } catch (error) {
        await container[Symbol.asyncDispose]();
        throw error;
      }
      return container;
    },
    async [Symbol.asyncDispose]() {
      await cri.crictl(["rmp", "--force", id]);
    },
  };
  return pod;
}

function podContainer(cri: Cri, id: string, logPath: string): PodContainer {
  const status = async () => {
    const inspected = JSON.parse(await cri.crictlOk(["inspect", id])) as { status: ContainerStatus };
    return inspected.status;
  };
  return {
    id,
    logPath,
    exec: (...command) => cri.crictl(["exec", id, ...command]),
    status,
    async ended() {
      for (const deadline = performance.now() + endTimeoutMs; ; await sleep(100)) {
        const found = await status();
        if (found.state === "CONTAINER_EXITED") return found;
        if (performance.now() > deadline)
          throw new Error(`Container ${id} is ${found.state}, expected its end`);
      }
    },
    async [Symbol.asyncDispose]() {
      await cri.crictl(["rm", "--force", id]);
    },
  };
}

function writeJson(path: string, value: Json): string {
  writeFileSync(path, JSON.stringify(value));
  return path;
}
