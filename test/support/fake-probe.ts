import type { Probe, ProgramResult } from "../../src/doctor/probe.ts";
import type { HostVirtualization } from "../../src/hypervisor/accelerator.ts";

/** A host as a table: what is not in it is not there. */
export interface FakeHost {
  readonly uid?: number;
  readonly texts?: Readonly<Record<string, string>>;
  readonly directories?: Readonly<Record<string, readonly string[]>>;
  readonly executables?: readonly string[];
  /** Devices that open; the others fail with ENOENT. */
  readonly devices?: readonly string[];
  /** By the program's path or name. */
  readonly programs?: Readonly<Record<string, ProgramResult>>;
  readonly freeBytes?: number;
  readonly freeInodes?: number;
  readonly virtualization?: HostVirtualization;
  readonly landlockVersion?: number;
}

const bare: HostVirtualization = {
  architecture: "x64",
  cpu: { hasVirtualization: false, tscKhz: undefined },
  kvm: { tag: "missing" },
};

export function fakeProbe(host: FakeHost): Probe {
  return {
    uid: () => host.uid ?? 0,
    readText: async (path) => host.texts?.[path],
    list: async (path) => host.directories?.[path],
    isExecutable: async (path) => host.executables?.includes(path) ?? false,
    openDevice: async (path) => (host.devices?.includes(path) ? undefined : "ENOENT"),
    contains: async (path, text) => host.texts?.[path]?.includes(text) ?? false,
    free: async () => ({ bytes: host.freeBytes ?? 2 ** 40, inodes: host.freeInodes ?? 10 ** 6 }),
    run: async ([program = ""]) => host.programs?.[program] ?? { tag: "missing" },
    virtualization: async () => host.virtualization ?? bare,
    landlockVersion: () => host.landlockVersion ?? 0,
  };
}
