/** How the VM executes guest code. `auto` takes KVM where it really works and TCG elsewhere. */
export type AcceleratorSetting = "kvm" | "tcg" | "auto";
export type HypervisorName = "qemu" | "cloud-hypervisor";
export type MachineType = "microvm" | "q35";

/** How host and guest reach each other. `auto` takes the kernel's vhost-vsock where there is one. */
export type VsockSetting = "auto" | "vhost-vsock" | "vhost-device-vsock";

/** The runtime's settings, validated and frozen. Units are in the names; defaults in `defaults.ts`. */
export interface Config {
  /** `kvm` fails clearly where KVM does not work. TCG is for development and tests: it is no security boundary. */
  readonly accel: AcceleratorSetting;
  readonly hypervisor: HypervisorName;
  /** Of QEMU. Cloud Hypervisor has one machine, to which "q35" adds what a VM grows with. */
  readonly machine: MachineType;
  readonly vsock: VsockSetting;
  /** Guest memory when the spec sets no limit. 64 to 1048576. */
  readonly defaultMemoryMiB: number;
  /** Added to a memory limit of the spec for the guest's kernel and agent. */
  readonly memoryOverheadMiB: number;
  /** vCPUs when the spec sets no quota. 1 to 256. */
  readonly defaultVcpus: number;
  readonly maxVcpus: number;
  /** Guest memory whatever the spec says; 0: by the spec. A limit of the spec that does not fit is refused. */
  readonly memoryMiB: number;
  /** What a VM may grow to, where its machine can; 0: the host's memory. At most that in any case. */
  readonly maxMemoryMiB: number;
  /** vCPUs whatever the spec says, at most `maxVcpus`; 0: by the spec. */
  readonly vcpus: number;
  /** Whether each sandbox has a daemon of its own, or all of a node share one per namespace of containerd. */
  readonly daemon: "sandbox" | "node";
  /** Whether VMM and helpers go into the cgroup that the spec names. */
  readonly hostCgroup: boolean;
  /** Where runtime state lives: `<stateDirectory>/<namespace>/<sandbox id>`. */
  readonly stateDirectory: string;
  /** Where the command line keeps images and writable layers. */
  readonly dataDirectory: string;
  /** Directory with vmlinux, initrd, kernel.json, image.erofs, and optionally `tuned/`. */
  readonly guestDirectory: string;
  /** Kernel to boot instead of the tuned or default one of `guestDirectory`; empty: choose. */
  readonly kernelPath: string;
  readonly qemuPath: string;
  readonly cloudHypervisorPath: string;
  readonly virtiofsdPath: string;
  readonly vhostDeviceVsockPath: string;
  /** First of the unprivileged user ids that VMs run as; one per sandbox. */
  readonly vmmUidBase: number;
  readonly vmmUidCount: number;
  /** From the start of QEMU to the agent's ready line. */
  readonly bootTimeoutMs: number;
  /** For one control call to the agent. */
  readonly agentCallTimeoutMs: number;
  /** How often the guest is asked whether it lives; after three missing answers its VM is killed. */
  readonly healthIntervalMs: number;
  /** How long the output of an exited process may take to be read before its exit is reported anyway. */
  readonly drainTimeoutMs: number;
  readonly logLevel: "error" | "warn" | "info" | "debug";
  /** Adds `caisson.log=debug` to the guest's command line and keeps the console in the log. */
  readonly debugGuest: boolean;
  /** How many VMs the pool keeps ready; 0: there is none. At most 64. */
  readonly poolSize: number;
  /** Most memory of the VMs that wait in it, by their sizes. */
  readonly poolMemoryMiB: number;
  /** Whether each sandbox's directory gets `timeline.trace.json`, for Perfetto. */
  readonly trace: boolean;
  /** Full names of the annotations `io.caisson.*` that a spec may carry. */
  readonly allowedAnnotations: readonly string[];
}
