import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { ignore } from "../base/files.ts";
import { isAlive } from "../base/processes.ts";
import type { Spec } from "../oci/spec.ts";
import type { Host } from "./host.ts";
import { statusOf } from "./probe.ts";
import type { ContainerRecord } from "./store.ts";

const groupAnnotation = "io.containerd.runc.v2.group";

/**
 * The sandbox that a container is to be in, of another container of this root. Undefined: it gets one of its own. Podman (since
 * 4.2) and CRI-O name the pod's container in annotations; Podman and Docker name a container whose network is to be shared
 * (`--network container:x`) by the namespace of the process that we have told them of.
 *
 * @throws failed_precondition  that container does not run
 * @throws unimplemented        it wants another network than its pod
 */
export async function joinedSandbox(host: Host, spec: Spec): Promise<string | undefined> {
  const wanted = spec.linux?.namespaces?.find(({ type }) => type === "network")?.path ?? "";
  const record = (await podContainer(host, spec)) ?? (await networkOwner(host, wanted));
  if (record === undefined) return undefined;
  const status = await statusOf(host, record);
  if (status === "stopped" || status === "creating")
    throw new RuntimeError("failed_precondition", `the pod's container ${record.id} is not running`);
  if (!(await isSameFile(wanted, `/proc/${record.proxy.pid}/ns/net`))) {
    throw new RuntimeError(
      "unimplemented",
      "a container of a pod with another network than the pod's is not supported: they are in one VM",
    );
  }
  // It may be in the sandbox of another one itself.
  const { sandboxId } = host.containers.sandboxName(record.id);
  return (await notedSandbox(host.containers.paths(record.id).shim)) ?? sandboxId;
}

/** Undefined also when it is of another runtime, or CRI-O keeps the sandbox without a container. */
async function podContainer(host: Host, { annotations = {} }: Spec): Promise<ContainerRecord | undefined> {
  if (annotations["io.kubernetes.cri-o.ContainerType"] !== "container") return undefined;
  return await host.containers.find(annotations["io.kubernetes.cri-o.SandboxID"] ?? "");
}

/** The container whose stand-in a path of procfs names. */
async function networkOwner(host: Host, path: string): Promise<ContainerRecord | undefined> {
  const pid = Number(/^\/proc\/(\d+)\/ns\/net$/.exec(path)?.[1] ?? 0);
  if (pid === 0) return undefined;
  const records = await host.containers.list(() => {
    // One that cannot be read is nobody's owner.
  });
  return records.find(({ proxy }) => proxy.pid === pid && isAlive(proxy));
}

/** Tells the daemon's starter that the container belongs to the sandbox of another, which has a daemon already. */
export async function noteSandbox(shimDirectory: string, sandboxId: string): Promise<void> {
  const annotations = { [groupAnnotation]: sandboxId };
  await writeFile(join(shimDirectory, "config.json"), JSON.stringify({ annotations }), { mode: 0o600 });
}

/** What `noteSandbox` has told; undefined: nothing. */
async function notedSandbox(shimDirectory: string): Promise<string | undefined> {
  const text = await readFile(join(shimDirectory, "config.json"), "utf8").catch(ignore("ENOENT"));
  if (text === undefined) return undefined;
  const { annotations } = JSON.parse(text) as { annotations: Record<string, string> };
  return annotations[groupAnnotation];
}

async function isSameFile(path: string, other: string): Promise<boolean> {
  const [first, second] = await Promise.all([path, other].map((each) => stat(each).catch(() => undefined)));
  return first !== undefined && first.dev === second?.dev && first.ino === second.ino;
}
