import { RuntimeError } from "../base/errors.ts";
import type { Spec, SpecMount } from "../oci/spec.ts";
import { containerSysctls } from "./guest-sysctls.ts";

/** Where the sandbox's virtio-fs share is mounted in the guest. */
export const guestShareDirectory = "/run/caisson/shared";

/** crun before 1.9 refuses other versions than 1.0.x; what later minor versions add are fields of their own. */
const guestOciVersion = "1.0.2";

/** A host path that the container wants bound, to be added to the share before the container is created. */
export interface BindSource {
  readonly index: number;
  readonly source: string;
  readonly readOnly: boolean;
}

/** The bind mounts of a spec, numbered from 0. */
export function bindSources(spec: Spec): BindSource[] {
  return (spec.mounts ?? []).filter(isBind).map((mount, index) => ({
    index,
    source: mount.source ?? "",
    readOnly: (mount.options ?? []).some((option) => option === "ro" || option === "rro"),
  }));
}

/**
 * The configuration that the guest's runtime gets: host paths replaced by their place in the share, and what has no
 * meaning in the guest removed. What would be a silent loss of protection is refused instead.
 *
 * Removed: the network namespace with its sysctls and those that are joined by path (the guest is the pod's), the host's cgroup path and
 * cpusets (the guest has CPUs of its own), AppArmor profiles and SELinux labels (the guest kernel has no such module; the VM is
 * the stronger wall), annotations.
 *
 * @throws unimplemented        id-mapped mounts, Intel RDT, joining a pid or mount namespace
 * @throws failed_precondition  the host's pid or mount namespace
 * @throws invalid_argument     a device of the host
 */
export function guestSpec(spec: Spec, containerId: string, terminal: boolean): Spec {
  refuseUnsupported(spec);
  const share = `${guestShareDirectory}/${containerId}`;
  let nextBind = 0;
  const mounts = (spec.mounts ?? []).map((mount) =>
    isBind(mount) ? { ...mount, type: "bind", source: `${share}/mounts/${nextBind++}` } : mount,
  );
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
    root: { ...spec.root, path: `${share}/rootfs` },
    mounts,
    // Those of the container's namespace; the others run on the host.
    hooks: {
      createContainer: hooks?.createContainer ?? [],
      startContainer: hooks?.startContainer ?? [],
    },
    linux: {
      ...guestLinux(linux, containerId),
      ...(linux.sysctl && { sysctl: containerSysctls(spec) }),
    },
  };
}

function guestLinux(linux: NonNullable<Spec["linux"]>, containerId: string): NonNullable<Spec["linux"]> {
  const { mountLabel: _label, ...kept } = linux as Record<string, unknown>;
  return {
    ...kept,
    cgroupsPath: `/containers/${containerId}`,
    namespaces: (linux.namespaces ?? [])
      .filter(({ type, path }) => type !== "network" && (path === undefined || path === ""))
      .map(({ type }) => ({ type })),
    // Null stands for none.
    resources: linux.resources ? guestResources(linux.resources) : undefined,
  } as NonNullable<Spec["linux"]>;
}

function guestResources(resources: object): object {
  const { cpu, blockIO: _blockIo, network: _network, ...kept } = resources as Record<string, unknown>;
  if (cpu === undefined) return kept;
  const { cpus: _cpus, mems: _mems, ...guestCpu } = cpu as Record<string, unknown>;
  return { ...kept, cpu: guestCpu };
}

function refuseUnsupported(spec: Spec): void {
  const refuse = (code: "unimplemented" | "failed_precondition" | "invalid_argument", fact: string) =>
    new RuntimeError(code, `Cannot create the container: ${fact}`);
  if ((spec.mounts ?? []).some((mount) => mount.uidMappings?.length || mount.gidMappings?.length)) {
    throw refuse("unimplemented", "id-mapped mounts are not supported");
  }
  for (const type of ["mount", "pid"]) {
    // Without these of its own a container would be in those of the agent.
    const entry = spec.linux?.namespaces?.find((namespace) => namespace.type === type);
    if (entry === undefined) {
      throw refuse(
        "failed_precondition",
        `it has no ${type} namespace of its own, and the host's is out of reach of a VM`,
      );
    }
    if (entry.path !== undefined && entry.path !== "") {
      throw refuse("unimplemented", `joining the ${type} namespace "${entry.path}" is not supported yet`);
    }
  }
  const linux = (spec.linux ?? {}) as Record<string, unknown>;
  if (linux["intelRdt"] !== undefined) throw refuse("unimplemented", "linux.intelRdt is not supported");
  for (const device of spec.linux?.devices ?? []) {
    if (!guestDevices.has(device.path)) {
      throw refuse(
        "invalid_argument",
        `the device "${device.path}" of the host does not exist in the guest; available are ${[...guestDevices].join(", ")}`,
      );
    }
  }
}

/** Devices that are the same in every Linux kernel, the guest's included. */
const guestDevices: ReadonlySet<string> = new Set([
  "/dev/null",
  "/dev/zero",
  "/dev/full",
  "/dev/random",
  "/dev/urandom",
  "/dev/tty",
  "/dev/fuse",
]);

function isBind(mount: SpecMount): boolean {
  const options = mount.options ?? [];
  return mount.type === "bind" || options.includes("bind") || options.includes("rbind");
}
