import type { ImageConfig } from "./config.ts";
import {
  defaultMounts,
  defaultNamespaces,
  defaultPath,
  defaultPrivileges,
  maskedPaths,
  readonlyPaths,
} from "../oci/spec-defaults.ts";
import type { ContainerUser } from "./users.ts";

/** A directory or file of the host that the container sees. */
export interface Volume {
  readonly source: string;
  readonly destination: string;
  readonly readOnly: boolean;
}

export interface SpecRequest {
  readonly containerId: string;
  readonly image: ImageConfig;
  /** What is run, image defaults applied; not empty. */
  readonly args: readonly string[];
  /** "NAME=VALUE", on top of the image's. */
  readonly env: readonly string[];
  readonly volumes: readonly Volume[];
  readonly user: ContainerUser;
  readonly terminal: boolean;
  /** Undefined: the image's, else "/". */
  readonly workingDirectory: string | undefined;
  readonly cpus: number | undefined;
  readonly memoryBytes: number | undefined;
}

/** A process as the OCI specification writes it; `exec` sends one of its own. */
export interface ProcessSpec {
  readonly terminal: boolean;
  readonly user: ContainerUser;
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly capabilities: Readonly<Record<"bounding" | "effective" | "permitted", readonly string[]>>;
  readonly rlimits: readonly { readonly type: string; readonly soft: number; readonly hard: number }[];
  readonly noNewPrivileges: boolean;
}

const cpuPeriodMicros = 100_000;
const hostnameLength = 12;

/** Makes the OCI runtime configuration of a container. */
export function buildSpec(request: SpecRequest) {
  return {
    ociVersion: "1.1.0",
    process: buildProcess(request),
    root: { path: "rootfs", readonly: false },
    hostname: request.containerId.slice(0, hostnameLength),
    mounts: [...defaultMounts, ...request.volumes.map(bindMount)],
    linux: {
      cgroupsPath: `/caisson/${request.containerId}`,
      namespaces: defaultNamespaces.map((type) => ({ type })),
      resources: {
        // The runtime adds the devices that every container has (null, zero, full, random, urandom, tty, ptmx, pts).
        devices: [{ allow: false, access: "rwm" }],
        ...(request.memoryBytes === undefined ? {} : { memory: { limit: request.memoryBytes } }),
        ...(request.cpus === undefined
          ? {}
          : { cpu: { quota: Math.round(request.cpus * cpuPeriodMicros), period: cpuPeriodMicros } }),
      },
      maskedPaths,
      readonlyPaths,
    },
  };
}

function buildProcess(request: SpecRequest): ProcessSpec {
  const { terminal, user, args, image } = request;
  return {
    terminal,
    user,
    args,
    env: mergeEnvironment([
      `PATH=${defaultPath}`,
      ...(terminal ? ["TERM=xterm"] : []),
      ...image.env,
      ...request.env,
    ]),
    cwd: request.workingDirectory ?? (image.workingDirectory || "/"),
    ...defaultPrivileges,
  };
}

/** Each name once, at its first place with its last value. */
export function mergeEnvironment(entries: readonly string[]): string[] {
  const values = new Map<string, string>();
  for (const entry of entries) values.set(entry.slice(0, entry.indexOf("=")), entry);
  return [...values.values()];
}

/** The command line: `args` of the user replace the image's Cmd and go behind its Entrypoint. Empty: there is none. */
export function chooseArgs(image: ImageConfig, args: readonly string[]): string[] {
  return [...image.entrypoint, ...(args.length > 0 ? args : image.command)];
}

function bindMount(volume: Volume) {
  return {
    destination: volume.destination,
    type: "bind",
    source: volume.source,
    options: ["rbind", "rprivate", volume.readOnly ? "ro" : "rw"],
  };
}
