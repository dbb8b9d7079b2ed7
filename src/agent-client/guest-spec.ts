import { RuntimeError } from "../base/errors.ts";
import type { Spec } from "../oci/spec.ts";
import { guestDeviceRules, guestOwnDevices } from "./guest-devices.ts";
import { type GuestSources, guestMounts, guestShareDirectory } from "./guest-mounts.ts";
import type { SharedNamespace } from "./guest-namespaces.ts";
import { containerSysctls } from "./guest-sysctls.ts";

/** crun before 1.9 refuses other versions than 1.0.x; what later minor versions add are fields of their own. */
const guestOciVersion = "1.0.2";

export interface GuestSpecOptions {
  readonly containerId: string;
  readonly terminal: boolean;
  readonly sources: GuestSources;
  /** Namespaces that the agent fills in. */
  readonly sharedNamespaces: readonly SharedNamespace[];
}

/**
 * The configuration that the guest's runtime gets: host paths replaced by their place in the guest, and what has no
 * meaning there removed. What would be a silent loss of protection is refused by `refuseUnsupported`.
 *
 * Removed: the network namespace and the sysctls of the guest (it is the pod's), the paths of namespaces that the agent fills in
 * and the devices that it adds (see `sharedNamespaces`, `blockDevices`), the host's cgroup path and cpusets (the guest has CPUs of
 * its own), AppArmor profiles and SELinux labels (the guest kernel has no such module; the VM is the stronger wall), annotations.
 */
export function guestSpec(
  spec: Spec,
  { containerId, terminal, sources, sharedNamespaces }: GuestSpecOptions,
): Spec {
  const { annotations: _annotations, hooks, linux = {}, process, ...rest } = spec;
  const {
    apparmorProfile: _profile,
    selinuxLabel: _label,
    ...guestProcess
  } = { ...process } as Record<string, unknown>;
  return {
    ...rest,
    ociVersion: guestOciVersion,
    process: { ...guestProcess, terminal } as unknown as NonNullable<Spec["process"]>,
    root: { ...spec.root, path: `${guestShareDirectory}/${containerId}/rootfs` },
    mounts: guestMounts(spec, sources),
    // Those of the container's namespace; the others run on the host.
    hooks: {
      createContainer: hooks?.createContainer ?? [],
      startContainer: hooks?.startContainer ?? [],
    },
    linux: {
      ...guestLinux(spec, containerId, sharedNamespaces),
      ...(linux.sysctl && { sysctl: containerSysctls(spec) }),
    },
  };
}

function guestLinux(
  spec: Spec,
  containerId: string,
  sharedNamespaces: readonly string[],
): NonNullable<Spec["linux"]> {
  const { linux = {} } = spec;
  const { mountLabel: _label, ...kept } = linux as Record<string, unknown>;
  return {
    ...kept,
    cgroupsPath: `/containers/${containerId}`,
    namespaces: (linux.namespaces ?? [])
      .filter(({ type }) => type !== "network" && !sharedNamespaces.includes(type))
      .map(({ type }) => ({ type })),
    ...(linux.devices === undefined ? {} : { devices: guestOwnDevices(spec) }),
    // Null stands for none.
    resources: linux.resources ? guestResources(spec, linux.resources) : undefined,
  } as NonNullable<Spec["linux"]>;
}

function guestResources(spec: Spec, resources: object): object {
  const {
    cpu,
    devices,
    blockIO: _blockIo,
    network: _network,
    ...kept
  } = resources as Record<string, unknown>;
  const { cpus: _cpus, mems: _mems, ...guestCpu } = (cpu ?? {}) as Record<string, unknown>;
  return {
    ...kept,
    ...(cpu === undefined ? {} : { cpu: guestCpu }),
    ...(devices === undefined ? {} : { devices: guestDeviceRules(spec) }),
  };
}

/** @throws unimplemented  Intel RDT, a seccomp listener */
export function refuseUnsupported(spec: Spec): void {
  const linux = (spec.linux ?? {}) as { readonly intelRdt?: unknown; readonly seccomp?: unknown };
  const refuse = (fact: string) => new RuntimeError("unimplemented", `Cannot create the container: ${fact}`);
  if (linux.intelRdt !== undefined) throw refuse("linux.intelRdt is not supported");
  const seccomp = (linux.seccomp ?? {}) as { readonly listenerPath?: unknown };
  if (seccomp.listenerPath !== undefined)
    throw refuse("linux.seccomp.listenerPath is a socket of the host, which the guest cannot reach");
}
