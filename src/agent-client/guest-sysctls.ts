import type { Spec } from "../oci/spec.ts";

/** Of the UTS namespace: every container has one, its own or its sandbox's. */
const utsPattern = /^kernel[./](?:hostname|domainname)$/;
/** Of the IPC namespace: the guest's, which containers without a sandbox's container share, and a container's own. */
const ipcPattern = /^(?:fs[./]mqueue[./]|kernel[./](?:shm|msg|sem))/;

type Sysctls = Readonly<Record<string, string>>;

/**
 * Those that are set in the guest when it boots: its network namespace and its kernel are the sandbox's own, so "unsafe"
 * ones do no harm outside of it.
 */
export function guestSysctls(spec: Spec): Sysctls {
  return pick(spec, (name) => !utsPattern.test(name));
}

/** Those of them that are set in the guest for every container, before it is made: no namespace of its own has them. */
export function sharedSysctls(spec: Spec): Sysctls {
  return pick(spec, (name) => !utsPattern.test(name) && !ipcPattern.test(name));
}

/** Those that are left to the guest's runtime: what is not for a namespace of the container it refuses. */
export function containerSysctls(spec: Spec): Sysctls {
  return pick(spec, (name) => utsPattern.test(name) || ipcPattern.test(name));
}

function pick(spec: Spec, isWanted: (name: string) => boolean): Sysctls {
  return Object.fromEntries(Object.entries(spec.linux?.sysctl ?? {}).filter(([name]) => isWanted(name)));
}
