import type { Spec } from "../oci/spec.ts";

/** Of the network namespace, which the guest itself is: the guest's runtime would refuse them in a container. */
const networkPrefix = /^net[./]/;
/** Of the IPC namespace, which those containers share that have none of their own. */
const ipcPrefix = /^(?:fs[./]mqueue[./]|kernel[./](?:shm|msg|sem))/;

type Sysctls = Readonly<Record<string, string>>;

/** Those that are set in the guest itself when it boots. */
export function guestSysctls(spec: Spec): Sysctls {
  return pick(spec, (name) => networkPrefix.test(name) || ipcPrefix.test(name));
}

/** Those that are left to the guest's runtime: what is not for a namespace of the container it refuses. */
export function containerSysctls(spec: Spec): Sysctls {
  return pick(spec, (name) => !networkPrefix.test(name));
}

function pick(spec: Spec, isWanted: (name: string) => boolean): Sysctls {
  return Object.fromEntries(Object.entries(spec.linux?.sysctl ?? {}).filter(([name]) => isWanted(name)));
}
