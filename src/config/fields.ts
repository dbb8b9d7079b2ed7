import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "./config.ts";

/** One setting: its property in `Config`, its default, and the check of a value from a file. */
export interface Field {
  readonly property: keyof Config;
  /** The default; a function where it depends on the `build/` that the executable lies in (undefined: installed). */
  readonly fallback: unknown;
  /** Throws what `fail` makes of the description of what was expected. */
  readonly check: (value: unknown, fail: (expected: string) => Error) => void;
}

/** The annotations that there are, and the setting that each one sets for its sandbox. */
export const annotationKeys: ReadonlyMap<string, string> = new Map([
  ["io.caisson.memory_mib", "memory_mib"],
  ["io.caisson.vcpus", "vcpus"],
  ["io.caisson.kernel", "kernel_path"],
  ["io.caisson.machine", "machine"],
  ["io.caisson.accel", "accel"],
  ["io.caisson.debug_guest", "debug_guest"],
]);

const installedDirectory = "/usr/lib/caisson";

/** Every setting by its name in the file. `docs/configuration.md` is checked against this table. */
export const fields: ReadonlyMap<string, Field> = new Map(
  Object.entries({
    accel: choice("accel", "kvm", ["kvm", "tcg", "auto"]),
    hypervisor: choice("hypervisor", "qemu", ["qemu", "cloud-hypervisor"]),
    machine: choice("machine", "microvm", ["microvm", "q35"]),
    vsock: choice("vsock", "auto", ["auto", "vhost-vsock", "vhost-device-vsock"]),
    default_memory_mib: integer("defaultMemoryMiB", 512, 64, 1_048_576),
    memory_overhead_mib: integer("memoryOverheadMiB", 96, 32, 65_536),
    default_vcpus: integer("defaultVcpus", 1, 1, 256),
    max_vcpus: integer("maxVcpus", 32, 1, 256),
    memory_mib: integerOrZero("memoryMiB", 64, 1_048_576),
    max_memory_mib: integerOrZero("maxMemoryMiB", 64, 1_048_576),
    vcpus: integerOrZero("vcpus", 1, 256),
    daemon: choice("daemon", "sandbox", ["sandbox", "node"]),
    host_cgroup: flag("hostCgroup", true),
    state_directory: directory("stateDirectory", () => "/run/caisson"),
    data_directory: directory("dataDirectory", () => "/var/lib/caisson"),
    guest_directory: directory("guestDirectory", (build) => join(build ?? installedDirectory, "guest")),
    kernel_path: optionalFile("kernelPath"),
    qemu_path: file("qemuPath", () => "/usr/bin/qemu-system-x86_64"),
    cloud_hypervisor_path: file("cloudHypervisorPath", () => "/usr/bin/cloud-hypervisor"),
    virtiofsd_path: file("virtiofsdPath", (build) => helper(build, "virtiofsd")),
    vhost_device_vsock_path: file("vhostDeviceVsockPath", (build) => helper(build, "vhost-device-vsock")),
    vmm_uid_base: integer("vmmUidBase", 700_000_000, 1_000, 4_000_000_000),
    vmm_uid_count: integer("vmmUidCount", 65_536, 1, 1_000_000),
    boot_timeout_ms: integer("bootTimeoutMs", 60_000, 1, 600_000),
    agent_call_timeout_ms: integer("agentCallTimeoutMs", 30_000, 100, 600_000),
    health_interval_ms: integer("healthIntervalMs", 10_000, 1_000, 600_000),
    drain_timeout_ms: integer("drainTimeoutMs", 10_000, 0, 600_000),
    log_level: choice("logLevel", "info", ["error", "warn", "info", "debug"]),
    debug_guest: flag("debugGuest", false),
    pool_size: integer("poolSize", 0, 0, 64),
    pool_memory_mib: integer("poolMemoryMiB", 2_048, 64, 1_048_576),
    trace: flag("trace", false),
    allowed_annotations: annotationNames("allowedAnnotations"),
  } satisfies Record<string, Field>),
);

function helper(buildDirectory: string | undefined, name: string): string {
  if (buildDirectory !== undefined) return join(buildDirectory, "libexec", name);
  const own = join(installedDirectory, "libexec", name);
  // A distribution's virtiofsd lies in /usr/libexec.
  return existsSync(own) ? own : join("/usr/libexec", name);
}

function choice(property: keyof Config, fallback: string, allowed: readonly string[]): Field {
  return {
    property,
    fallback,
    check: (value, fail) => {
      if (!allowed.includes(value as string)) throw fail(allowed.map((item) => `"${item}"`).join(" or "));
    },
  };
}

function integer(property: keyof Config, fallback: number, min: number, max: number): Field {
  return {
    property,
    fallback,
    check: (value, fail) => {
      const good = typeof value === "number" && Number.isInteger(value) && value >= min && value <= max;
      if (!good) throw fail(`a whole number from ${min} to ${max}`);
    },
  };
}

/** 0, the default, stands for "choose". */
function integerOrZero(property: keyof Config, min: number, max: number): Field {
  const { check } = integer(property, 0, min, max);
  return {
    property,
    fallback: 0,
    check: (value, fail) => {
      if (value !== 0) check(value, (expected) => fail(`0 or ${expected}`));
    },
  };
}

function annotationNames(property: keyof Config): Field {
  const known = [...annotationKeys.keys()];
  return {
    property,
    fallback: [],
    check: (value, fail) => {
      const good = Array.isArray(value) && value.every((name) => known.includes(name as string));
      if (!good) throw fail(`a list of ${known.map((name) => `"${name}"`).join(", ")}`);
    },
  };
}

function flag(property: keyof Config, fallback: boolean): Field {
  return {
    property,
    fallback,
    check: (value, fail) => {
      if (typeof value !== "boolean") throw fail("true or false");
    },
  };
}

type PathDefault = (buildDirectory: string | undefined) => string;

function directory(property: keyof Config, fallback: PathDefault): Field {
  return { property, fallback, check: checkAbsolutePath };
}

function file(property: keyof Config, fallback: PathDefault): Field {
  return { property, fallback, check: checkAbsolutePath };
}

/** Empty stands for "choose". */
function optionalFile(property: keyof Config): Field {
  return {
    property,
    fallback: "",
    check: (value, fail) => {
      if (value !== "") checkAbsolutePath(value, fail);
    },
  };
}

function checkAbsolutePath(value: unknown, fail: (expected: string) => Error): void {
  const good =
    typeof value === "string" &&
    value.startsWith("/") &&
    !value.includes("\0") &&
    !value.split("/").includes("..");
  if (!good) throw fail("an absolute path");
}
