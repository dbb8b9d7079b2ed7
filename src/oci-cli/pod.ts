import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { Spec } from "../oci/spec.ts";
import type { Host } from "./host.ts";
import { statusOf } from "./probe.ts";

/**
 * The container whose sandbox this one is to be in, from the annotations of Podman (since 4.2) and CRI-O: a pod's
 * containers name the one that the pod was made with. Undefined: it gets a sandbox of its own.
 *
 * @throws failed_precondition  that container does not run
 * @throws unimplemented        it wants another network than its pod
 */
export async function sandboxContainerOf(host: Host, spec: Spec): Promise<string | undefined> {
  const { annotations = {} } = spec;
  if (annotations["io.kubernetes.cri-o.ContainerType"] !== "container") return undefined;
  const sandboxContainerId = annotations["io.kubernetes.cri-o.SandboxID"] ?? "";
  // Of another runtime, or CRI-O's own way of keeping a sandbox without a container.
  const record = await host.containers.find(sandboxContainerId);
  if (record === undefined) return undefined;
  const status = await statusOf(host, record);
  if (status === "stopped" || status === "creating")
    throw new RuntimeError("failed_precondition", `the pod's container ${sandboxContainerId} is not running`);
  const wanted = spec.linux?.namespaces?.find(({ type }) => type === "network")?.path ?? "";
  if (await isSameFile(wanted, `/proc/${record.proxy.pid}/ns/net`)) return sandboxContainerId;
  throw new RuntimeError(
    "unimplemented",
    "a container of a pod with another network than the pod's is not supported: they are in one VM",
  );
}

/** Tells the daemon's starter that the container belongs to the sandbox of another, which has a daemon already. */
export async function noteSandbox(shimDirectory: string, sandboxId: string): Promise<void> {
  const annotations = { "io.containerd.runc.v2.group": sandboxId };
  await writeFile(join(shimDirectory, "config.json"), JSON.stringify({ annotations }), { mode: 0o600 });
}

async function isSameFile(path: string, other: string): Promise<boolean> {
  const [first, second] = await Promise.all([path, other].map((each) => stat(each).catch(() => undefined)));
  return first !== undefined && first.dev === second?.dev && first.ino === second.ino;
}
