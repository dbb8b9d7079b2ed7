/** What sandboxes run on in the lab. */

const cloudHypervisor = process.env["CAISSON_CLOUD_HYPERVISOR"] ?? "";

export interface Host {
  readonly name: string;
  /** TOML, in double quotes only. */
  readonly settings: string;
  /** The transport that is to be chosen. */
  readonly vsock: string;
  /** Why it cannot be tried. */
  readonly missing?: string;
}

/** Emulation of emulation on a machine that may be busy: deadlines are for what hangs, not for what is slow. */
const patience = "boot_timeout_ms = 300000\nagent_call_timeout_ms = 300000";

export const microvm: Host = host("QEMU microvm", "vhost-vsock", 'machine = "microvm"');
export const q35: Host = host("QEMU q35", "vhost-vsock", 'machine = "q35"');
export const cloudHypervisorHost: Host = {
  ...host(
    "Cloud Hypervisor",
    "hybrid",
    `hypervisor = "cloud-hypervisor"\ncloud_hypervisor_path = "${cloudHypervisor}"`,
  ),
  ...(cloudHypervisor === "" && { missing: "there is no Cloud Hypervisor in the cache (docs/lab.md)" }),
};
export const withBackend: Host = host(
  "QEMU microvm with vhost-device-vsock",
  "vhost-device-vsock",
  'vsock = "vhost-device-vsock"',
);

function host(name: string, vsock: string, settings: string): Host {
  return { name, vsock, settings: `accel = "kvm"\n${settings}\n${patience}` };
}
