// What the agent's calls take and give, as plain types.

import type { SharedNamespace } from "./guest-namespaces.ts";

export interface GuestExit {
  readonly containerId: string;
  /** Empty for init. */
  readonly execId: string;
  readonly exitCode: number;
}

export interface AgentEvents {
  onExit(exit: GuestExit): void;
  onOomKill(containerId: string): void;
  /** Said by the container at its notify socket: of at most 4096 bytes, and hostile. */
  onNotification(containerId: string, text: string): void;
}

export interface GuestStdio {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly terminal: boolean;
  readonly columns: number;
  readonly rows: number;
}

/** Interfaces, routes and neighbours as the guest shall have them. */
export interface GuestNetworkSettings {
  readonly interfaces: readonly {
    macAddress: string;
    /** What the link's MAC address shall become. */
    newMacAddress?: string;
    name: string;
    mtu: number;
    addresses: string[];
  }[];
  readonly routes: readonly {
    destination: string;
    gateway: string;
    interfaceName: string;
    source: string;
    metric: number;
    scope: string;
    onLink: boolean;
    family: string;
  }[];
  readonly neighbours: readonly { address: string; macAddress: string; interfaceName: string }[];
}

export interface GuestConfiguration extends GuestNetworkSettings {
  readonly sandboxId: string;
  readonly randomSeed: Uint8Array;
  readonly streamToken: Uint8Array;
  readonly hostname: string;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly storages: readonly GuestStorage[];
}

/** A file system that the guest mounts: `source` is a tag of virtio-fs, empty for "tmpfs". */
export interface GuestStorage {
  readonly type: "virtiofs" | "tmpfs";
  readonly source: string;
  readonly target: string;
  readonly options: string[];
}

/** A disk of the VM, known by its serial number, and the node that the container gets of it. */
export interface GuestDisk {
  readonly serial: string;
  readonly path: string;
  readonly readOnly: boolean;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
}

/** A descriptor of a process in the guest whose other side we have. */
export interface GuestDescriptor {
  readonly kind:
    | "unix-listener"
    | "tcp4-listener"
    | "tcp6-listener"
    /** Connected. */
    | "stream"
    /** The process reads from it. */
    | "pipe-reader"
    | "pipe-writer";
  /** Of a listening TCP socket: where it listens unless that is taken. */
  readonly port: number;
}

export interface GuestContainerRequest {
  readonly containerId: string;
  readonly ociConfigJson: Uint8Array;
  readonly stdio: GuestStdio;
  readonly noPivotRoot: boolean;
  /** Mounted before, unless they are. */
  readonly storages: readonly GuestStorage[];
  /** Namespaces of the sandbox that the container joins. */
  readonly sharedNamespaces: readonly SharedNamespace[];
  readonly disks: readonly GuestDisk[];
  /** The container gets every device of the guest. */
  readonly allDevices: boolean;
  /** Paths in the share that its mounts come from; containers with the same path share the mount. */
  readonly volumes: readonly string[];
  /** Serial number of the disk with the image of its root; empty: the root is in the share. */
  readonly rootDisk?: string;
  /** The container gets a notify socket. */
  readonly notify: boolean;
  /** Kernel parameters of the guest that it asks for. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** What its first process gets from descriptor 3 on. */
  readonly descriptors: readonly GuestDescriptor[];
  /** NAME=VALUE, behind those of the configuration. */
  readonly environment: readonly string[];
}

export interface GuestReport {
  readonly agentVersion: string;
  readonly kernelRelease: string;
  /** Boot phases, microseconds since the start of the guest's kernel. */
  readonly bootPhases: readonly { readonly name: string; readonly atMicros: number }[];
}

export interface GuestProcessEntry {
  /** In the guest's numbering. */
  readonly guestPid: number;
  /** Empty for init and for children. */
  readonly execId: string;
}

/** What is done with the files of a container. */
export interface FileTransfer {
  /** `read` and `archive` (a directory's content as tar) write to stdout, `write` and `extract` read stdin. */
  readonly operation: "read" | "write" | "archive" | "extract";
  /** Absolute, in the container. */
  readonly path: string;
  /** Permissions of a file that `write` makes. */
  readonly mode: number;
  /** Owner of everything that is made. */
  readonly uid: number;
  readonly gid: number;
}

/** The process that a call is about: `execId` is empty for init. */
export interface ProcessAddress {
  readonly containerId: string;
  readonly execId: string;
}
