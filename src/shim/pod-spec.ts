import { hostname as hostHostname } from "node:os";
import { RuntimeError } from "../base/errors.ts";
import type { Spec } from "../oci/spec.ts";
import { runtime } from "../gen/sandbox.js";
import { checkUserNamespace } from "./pod-user-namespace.ts";

const podConfigType = "runtime.v1.PodSandboxConfig";

/** A CreateSandbox request, as far as it counts here. */
export interface PodRequest {
  readonly sandboxId: string;
  /** Empty: the host's network. */
  readonly netnsPath: string;
  readonly options: { readonly typeUrl: string; readonly value: Uint8Array } | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A pod as a VM is made for it. */
export interface PodPlan {
  /** What CRI would have said of its pause container. */
  readonly spec: Spec;
  /** Empty: of the host. */
  readonly resolvConf: string;
  readonly hostname: string;
}

/**
 * Translates the configuration of a pod; other clients than CRI give none.
 *
 * @throws invalid_argument     options of another type, or that cannot be decoded; a user namespace that cannot be
 * @throws failed_precondition  the host's network
 */
export function planPod(request: PodRequest): PodPlan {
  const { sandboxId, netnsPath } = request;
  if (netnsPath === "") {
    throw new RuntimeError(
      "failed_precondition",
      `Cannot use the host's network for sandbox "${sandboxId}": a VM has a network of its own; run it with a network namespace`,
    );
  }
  const config = decode(request);
  const { linux, dnsConfig } = config;
  checkUserNamespace(sandboxId, linux?.securityContext?.namespaceOptions?.usernsOptions);
  const hostname = config.hostname || hostHostname();
  const sysctl = { ...linux?.sysctls };
  const cgroupsPath = cgroupsPathOf(linux?.cgroupParent ?? "", sandboxId);
  return {
    hostname,
    resolvConf: resolvConfOf(dnsConfig),
    spec: {
      ociVersion: "1.0.2",
      root: { path: "rootfs" },
      hostname,
      annotations: { ...request.annotations, ...config.annotations, ...criAnnotations(sandboxId, config) },
      linux: {
        namespaces: [{ type: "network", path: netnsPath }],
        sysctl,
        ...(cgroupsPath !== undefined && { cgroupsPath }),
      },
    },
  };
}

function decode({ sandboxId, options }: PodRequest): runtime.v1.PodSandboxConfig {
  if (options === undefined || options.typeUrl === "") return new runtime.v1.PodSandboxConfig();
  const type = options.typeUrl.slice(options.typeUrl.lastIndexOf("/") + 1);
  const refuse = (fact: string, cause?: unknown) =>
    new RuntimeError("invalid_argument", `Cannot create sandbox "${sandboxId}": ${fact}`, { cause });
  if (type !== podConfigType)
    throw refuse(`its options have the type "${type}", expected "${podConfigType}"`);
  try {
    return runtime.v1.PodSandboxConfig.decode(options.value);
  } catch (cause) {
    throw refuse("its pod configuration cannot be decoded", cause);
  }
}

/** The annotations that CRI gives a pause container: role, name and size of the pod. */
function criAnnotations(sandboxId: string, config: runtime.v1.PodSandboxConfig): Record<string, string> {
  const { metadata, linux } = config;
  const size = linux?.resources;
  const named: Record<string, string> = {
    "container-type": "sandbox",
    "sandbox-id": sandboxId,
    "sandbox-name": metadata?.name ?? "",
    "sandbox-namespace": metadata?.namespace ?? "",
    "sandbox-uid": metadata?.uid ?? "",
    ...(size && {
      "sandbox-cpu-period": String(size.cpuPeriod ?? 0),
      "sandbox-cpu-quota": String(size.cpuQuota ?? 0),
      "sandbox-cpu-shares": String(size.cpuShares ?? 0),
      "sandbox-memory": String(size.memoryLimitInBytes ?? 0),
    }),
  };
  return Object.fromEntries(Object.entries(named).map(([key, value]) => [`io.kubernetes.cri.${key}`, value]));
}

/** As CRI names the cgroup of a pause container: of a systemd slice in systemd's notation. */
function cgroupsPathOf(parent: string, sandboxId: string): string | undefined {
  if (parent === "") return undefined;
  const name = parent.slice(parent.lastIndexOf("/") + 1);
  return name.endsWith(".slice") ? `${name}:cri-containerd:${sandboxId}` : `${parent}/${sandboxId}`;
}

/** resolv.conf(5); a line for each kind of setting, a line for each server. */
function resolvConfOf(dns: runtime.v1.DNSConfig.$Properties | null | undefined): string {
  const { servers = [], searches = [], options = [] } = dns ?? {};
  const lines = [
    ...((searches?.length ?? 0) > 0 ? [`search ${searches?.join(" ")}`] : []),
    ...(servers ?? []).map((server) => `nameserver ${server}`),
    ...((options?.length ?? 0) > 0 ? [`options ${options?.join(" ")}`] : []),
  ];
  return lines.map((line) => `${line}\n`).join("");
}
