import { type Check, error, ok, warning } from "./finding.ts";

/** Numbers of capabilities (capabilities(7)) that the daemon needs. */
const neededCapabilities: ReadonlyMap<string, number> = new Map([
  ["CAP_CHOWN", 0],
  ["CAP_DAC_OVERRIDE", 1],
  ["CAP_SETGID", 6],
  ["CAP_SETUID", 7],
  ["CAP_SETPCAP", 8],
  ["CAP_NET_ADMIN", 12],
  ["CAP_SYS_ADMIN", 21],
]);
/** What one sandbox and its daemon have open, generously, for some hundred of them. */
const wantedOpenFiles = 16_384;
const wantedDataBytes = 1024 ** 3;
const wantedStateBytes = 64 * 1024 ** 2;
const wantedInodes = 10_000;

export const permissions: Check = async ({ probe }) => {
  const name = "permissions";
  const why = "mounts, network devices and users of VMs need root";
  if (probe.uid() !== 0)
    return error(name, { finding: `user id ${probe.uid()}, not root`, why, remedy: "sudo caisson doctor" });
  const status = (await probe.readText("/proc/self/status")) ?? "";
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
  const missing = [...neededCapabilities].filter(([, bit]) => ((effective >> BigInt(bit)) & 1n) === 0n);
  if (missing.length === 0) return ok(name, "root, with the capabilities that are needed");
  return error(name, {
    finding: `root without ${missing.map(([capability]) => capability).join(", ")}`,
    why,
    remedy: "run it outside of the container, or give the container these capabilities",
  });
};

export const cgroups: Check = async ({ probe }) => {
  const name = "cgroups";
  if ((await probe.readText("/sys/fs/cgroup/cgroup.controllers")) !== undefined) return ok(name, "version 2");
  const names = (await probe.list("/sys/fs/cgroup")) ?? [];
  if (names.includes("memory")) return ok(name, "version 1");
  return warning(name, {
    finding: "no cgroup hierarchy is mounted at /sys/fs/cgroup",
    why: "what a sandbox takes on the host is not limited and not counted",
    remedy: "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
  });
};

export const limits: Check = async ({ probe }) => {
  const name = "limits";
  const text = (await probe.readText("/proc/self/limits")) ?? "";
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(text)?.[1];
  const openFiles = hard === "unlimited" ? Infinity : Number(hard ?? 0);
  if (openFiles >= wantedOpenFiles) return ok(name, `${hard} open files`);
  return warning(name, {
    finding: `at most ${hard ?? "an unknown number of"} open files, ${wantedOpenFiles} are wished for`,
    why: "a daemon holds descriptors for every stream of its containers, and cannot raise its own limit",
    remedy: `ulimit -Hn ${wantedOpenFiles}; for a service: LimitNOFILE=${wantedOpenFiles} in its unit`,
  });
};

export const disk: Check = async ({ probe, config }) => {
  const name = "disk";
  const wanted = [
    { directory: config.dataDirectory, setting: "data_directory", bytes: wantedDataBytes },
    { directory: config.stateDirectory, setting: "state_directory", bytes: wantedStateBytes },
  ];
  const short: string[] = [];
  for (const { directory, setting, bytes } of wanted) {
    const free = await probe.free(directory);
    if (free === undefined) short.push(`${setting} "${directory}" cannot be looked at`);
    else if (free.bytes < bytes)
      short.push(
        `${setting} "${directory}" has ${mebibytes(free.bytes)} MiB free of ${mebibytes(bytes)} wished for`,
      );
    // Some file systems make inodes as they go and say 0.
    else if (free.inodes > 0 && free.inodes < wantedInodes)
      short.push(`${setting} "${directory}" has ${free.inodes} inodes free`);
  }
  if (short.length === 0) return ok(name, "there is room for images and state");
  return warning(name, {
    finding: short.join("; "),
    why: "images are unpacked into the data directory, and a sandbox keeps its journal in the state directory",
    remedy: "df -h; set data_directory or state_directory to a place with room",
  });
};

function mebibytes(bytes: number): number {
  return Math.floor(bytes / 1024 ** 2);
}
