/** The documents that do not depend on a container: `spec` and `features`. */
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { defaultMounts, defaultPath, maskedPaths, readonlyPaths } from "../oci/spec-defaults.ts";
import { version } from "../shim/version.ts";
import { bundleDirectory } from "./bundle.ts";

const capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/** `spec`: a configuration to start from, the same as runc's. @throws already_exists */
export async function spec(bundle: string | undefined): Promise<number> {
  const path = join(await bundleDirectory(bundle), "config.json");
  if (existsSync(path)) throw new RuntimeError("already_exists", "File config.json exists. Remove it first");
  await writeFile(path, `${JSON.stringify(exampleSpec(), undefined, "\t")}\n`, { mode: 0o666, flag: "wx" });
  return 0;
}

export function exampleSpec() {
  return {
    ociVersion: "1.0.2",
    process: {
      terminal: true,
      user: { uid: 0, gid: 0 },
      args: ["sh"],
      env: [`PATH=${defaultPath}`, "TERM=xterm"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: [{ type: "RLIMIT_NOFILE", hard: 1024, soft: 1024 }],
      noNewPrivileges: true,
    },
    root: { path: "rootfs", readonly: true },
    hostname: "caisson",
    mounts: defaultMounts,
    linux: {
      resources: { devices: [{ allow: false, access: "rwm" }] },
      namespaces: ["pid", "network", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type })),
      maskedPaths,
      readonlyPaths,
    },
  };
}

/** `features` (the specification's features.md): what a container can ask for, in the guest or of us. */
export function features(): number {
  process.stdout.write(`${JSON.stringify(featuresDocument(), undefined, 4)}\n`);
  return 0;
}

export function featuresDocument() {
  return {
    ociVersionMin: "1.0.0",
    ociVersionMax: "1.2.0",
    hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
    mountOptions: words(`
      async atime bind defaults dev diratime dirsync exec idmap mand noatime nodev nodiratime noexec
      nomand norelatime nostrictatime nosuid private rbind relatime remount ridmap ro rprivate rro rslave rw slave strictatime
      suid sync tmpcopyup
    `),
    linux: {
      // Those of its own; the network namespace can be joined by path, and is mirrored into the guest.
      namespaces: ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
      // Of the guest's kernels.
      capabilities: words(`
        CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP
        CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
        CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
        CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
        CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
        CAP_CHECKPOINT_RESTORE
      `),
      cgroup: { v1: false, v2: true, systemd: false, systemdUser: false, rdma: false },
      seccomp: {
        enabled: true,
        actions: words(`
          SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_LOG
          SCMP_ACT_TRACE SCMP_ACT_TRAP
        `),
        archs: ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64"],
      },
      apparmor: { enabled: false },
      selinux: { enabled: false },
      intelRdt: { enabled: false },
      mountExtensions: { idmap: { enabled: true } },
    },
    annotations: {
      "io.caisson.version": version,
      "org.opencontainers.runc.checkpoint.enabled": "false",
    },
  };
}

function words(text: string): string[] {
  return text.trim().split(/\s+/);
}
