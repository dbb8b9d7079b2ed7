import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createPod, joinedNamespaces, makeBusyboxRoot, type Pod } from "../support/model-pod.ts";
import { defaultNamespaces } from "../../src/oci/spec-defaults.ts";

let pod: Pod;
beforeAll(async () => {
  pod = createPod();
  await pod.start("", {
    linux: {
      sysctl: {
        // Of the network, of the kernel ("unsafe"), of the container's IPC namespace.
        "net.ipv4.ip_unprivileged_port_start": "7",
        "vm.overcommit_memory": "1",
        "kernel.shm_rmid_forced": "1",
      },
    },
  });
});
afterAll(() => pod[Symbol.asyncDispose]());

const capabilities = (...names: string[]) => ({
  capabilities: { bounding: names, effective: names, permitted: names },
});
const status = (field: string) => `sed -n 's/^${field}:[[:space:]]*//p' /proc/self/status`;

test("user, group, additional groups and umask, of init and of an exec", async () => {
  const user = { uid: 1000, gid: 1001, additionalGids: [5, 600], umask: 0o027 };
  const script =
    "id -u; id -g; id -G; umask; touch /tmp/of-user; stat -c %u:%g:%a /tmp/of-user; rm /tmp/of-user";
  const want = "1000\n1001\n1001 5 600\n0027\n1000:1001:640\n";
  execFileSync("chmod", ["1777", pod.dir.join("rootfs/tmp")]);

  expect(await pod.run("user", script, { process: { user } })).toEqual({ exitCode: 0, output: want });
  const root = await pod.start("user-exec");
  expect(await root.sh(script, { user })).toEqual({ exitCode: 0, output: want });
  await root.remove();
});

test("capabilities: none, some, all; and no new privileges", async () => {
  const script = `${status("CapEff")}; ${status("NoNewPrivs")}; chown 1:1 /tmp 2>&1; stat -c %u /tmp; chown 0:0 /tmp 2>/dev/null`;
  const none = await pod.run("caps-none", script, { process: { ...capabilities(), noNewPrivileges: true } });
  const some = await pod.run("caps-some", script, { process: capabilities("CAP_CHOWN") });
  // CAP_LAST_CAP of the guest's kernel.
  const names = ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_CHECKPOINT_RESTORE"];
  const many = await pod.run("caps-many", status("CapEff"), { process: capabilities(...names) });

  expect(none.output).toMatch(/^0000000000000000\n1\nchown: .*not permitted\n0\n$/i);
  expect(some.output).toBe("0000000000000001\n0\n1\n");
  expect(many.output).toBe("0000010000210001\n");
});

test("a seccomp profile filters in the guest", async () => {
  const seccomp = {
    defaultAction: "SCMP_ACT_ALLOW",
    architectures: ["SCMP_ARCH_X86_64"],
    syscalls: [
      { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 38 },
      { names: ["sethostname"], action: "SCMP_ACT_ERRNO" },
    ],
  };
  const script = `mkdir /tmp/x; hostname other; ${status("Seccomp")}`;
  const process = capabilities("CAP_SYS_ADMIN");

  const filtered = await pod.run("seccomp", script, { linux: { seccomp }, process });
  const free = await pod.run("unconfined", "hostname other; hostname", { process });

  expect(filtered.output).toMatch(/mkdir: .*Function not implemented\nhostname: .*not permitted\n2\n/);
  expect(free.output).toBe("other\n");
});

test("masked and read-only paths, a read-only root, and what is writable in it", async () => {
  const script = [
    "wc -c </proc/version",
    "ls /sys/kernel",
    "echo 1 >/proc/sys/kernel/pid_max",
    "echo x >/made",
    "echo x >/dev/shm/made && cat /dev/shm/made",
  ].join("; ");
  const result = await pod.run("masked", script, {
    root: { readonly: true },
    linux: { maskedPaths: ["/proc/version", "/sys/kernel", "/proc/no-such-file"] },
  });

  expect(result.output).toMatch(/^0\nsh: /);
  expect(result.output.match(/Read-only file system/g)).toHaveLength(2);
  expect(result.output).toMatch(/x\n$/);
});

test("sysctls of the sandbox are the guest's, whoever asks, and not the host's", async () => {
  const names = ["net/ipv4/ip_unprivileged_port_start", "vm/overcommit_memory", "kernel/shm_rmid_forced"];
  const read = names.map((name) => `cat /proc/sys/${name}`).join("; ");
  const own = names.map((name) => readFileSync(`/proc/sys/${name}`, "utf8"));

  expect((await pod.run("sysctls", read)).output).toMatch(/^7\n1\n/);
  const namespaces = joinedNamespaces(pod.sandbox, ["ipc"]);
  expect((await pod.run("sysctls-ipc", read, { namespaces })).output).toBe("7\n1\n1\n");
  expect(names.map((name) => readFileSync(`/proc/sys/${name}`, "utf8"))).toEqual(own);
});

test("sysctls of a later container hold for the sandbox; one that the guest does not have fails the create", async () => {
  const name = "net.ipv4.ip_unprivileged_port_start";
  const read = `cat /proc/sys/${name.replaceAll(".", "/")}`;
  const setTo = (value: string) => ({ linux: { sysctl: { [name]: value } } });

  expect((await pod.run("sysctl-later", read, setTo("9"))).output).toBe("9\n");
  expect((await pod.run("sysctl-seen", read)).output).toBe("9\n");
  expect((await pod.run("sysctl-back", read, setTo("7"))).output).toBe("7\n");
  await expect(
    pod.create("sysctl-unknown", ["true"], { linux: { sysctl: { "net.ipv4.no_such": "1" } } }),
  ).rejects.toThrow(/Cannot set sysctl "net.ipv4.no_such": the guest's kernel does not have it/);
});

test("rlimits and the OOM score are set in the guest, where they need nothing of the host", async () => {
  const process = {
    rlimits: [
      { type: "RLIMIT_NOFILE", soft: 4000, hard: 300_000 },
      { type: "RLIMIT_CORE", soft: 0, hard: 0 },
    ],
    oomScoreAdj: -998,
  };
  const result = await pod.run("limits", "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj", {
    process,
  });

  expect(result.output).toBe("4000\n300000\n0\n-998\n");
});

test("with CAP_NET_ADMIN a container makes bridges, pairs of interfaces and taps; without it does not", async () => {
  const script = ["bridge", "veth"]
    .map((type) => `ip link add new-${type} type ${type} && ip link del new-${type} && echo ${type}`)
    .concat("tunctl -t new-tap >/dev/null && tunctl -d new-tap >/dev/null && echo tap")
    .join("; ");
  const device = { path: "/dev/net/tun", type: "c", major: 10, minor: 200, fileMode: 0o666 };
  const linux = {
    devices: [device],
    resources: { devices: [{ allow: true, type: "c", major: 10, minor: 200, access: "rwm" }] },
  };
  const process = { process: capabilities("CAP_NET_ADMIN"), linux };

  expect((await pod.run("net-admin", script, process)).output).toBe("bridge\nveth\ntap\n");
  expect((await pod.run("no-net-admin", `(${script}) 2>/dev/null`, { linux })).output).toBe("");
});

test("privileged: every device of the guest, a writable /sys and all capabilities; nothing of the host", async () => {
  const result = await pod.run(
    "privileged",
    [
      "dd if=/dev/vda bs=512 count=1 of=/dev/null 2>/dev/null && echo read a disk",
      "ls /dev/of-the-host",
      "mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine && echo own cgroup",
      "echo 0 >/proc/sys/vm/overcommit_memory && echo sysctl",
      "mount -t tmpfs none /tmp && echo mount",
      status("CapEff"),
    ].join("; "),
    {
      process: capabilities(...capabilityNames),
      mounts: [
        { destination: "/sys", type: "sysfs", source: "sysfs", options: ["rw"] },
        { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["rw"] },
      ],
      linux: {
        maskedPaths: [],
        readonlyPaths: [],
        resources: { devices: [{ allow: true, access: "rwm" }] },
        devices: [{ path: "/dev/of-the-host", type: "b", major: 7, minor: 0 }],
      },
    },
  );

  expect(result.output).toContain("read a disk\n");
  expect(result.output).toMatch(/of-the-host: No such file/);
  expect(result.output).toContain("own cgroup\nsysctl\nmount\n000001ffffffffff\n");
});

test("user namespaces: root of the container is not the guest's; a pod shares one; volumes have mapped ids", async () => {
  await using mapped = createPod();
  const root = mapped.dir.join("mapped-root");
  makeBusyboxRoot(root);
  execFileSync("chown", ["-hR", "100000:100000", root]);
  const source = mapped.dir.join("mapped");
  mkdirSync(source);
  writeFileSync(`${source}/of-root`, "");
  const ids = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  const volume = { destination: "/data", type: "bind", source, options: ["rbind"], uidMappings: ids };
  const changes = {
    root: { path: root },
    mounts: [{ ...volume, gidMappings: ids }],
    linux: { uidMappings: ids, gidMappings: ids },
  };
  // As containerd makes one for a pod.
  const own = [
    ...defaultNamespaces.map((type) => ({ type })),
    { type: "user", path: mapped.dir.join("made-for-the-pod") },
  ];
  const first = await mapped.start("", { ...changes, namespaces: own });
  const script =
    "id -u; cat /proc/self/uid_map; stat -c %u /data/of-root /bin; touch /data/made /tmp/made; ls /sys/class >/dev/null && echo sys";

  const seen = await first.sh(script);
  const joined = await mapped.run("joined", `${script}; readlink /proc/self/ns/user`, {
    ...changes,
    namespaces: [
      ...joinedNamespaces(mapped.sandbox, ["ipc", "uts"]),
      { type: "user", path: `/proc/${mapped.sandbox.pid}/ns/user` },
    ],
  });

  expect(seen.output).toMatch(/^0\n\s+0\s+100000\s+65536\n0\n0\nsys\n$/);
  expect(joined.output).toBe(`${seen.output}${(await first.sh("readlink /proc/self/ns/user")).output}`);
  expect(statSync(`${source}/made`).uid).toBe(0);
  expect(statSync(`${root}/tmp/made`).uid).toBe(100_000);
});

const capabilityNames = [
  "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE",
  "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN",
  "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE",
  "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE",
]
  .join(" ")
  .split(" ")
  .map((name) => `CAP_${name}`);

test("user namespaces of a sandbox without a container of its own: all that join share one", async () => {
  await using mapped = createPod();
  const root = mapped.dir.join("mapped-root");
  makeBusyboxRoot(root);
  execFileSync("chown", ["-hR", "100000:100000", root]);
  const ids = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  // The VM is there before a container that joins, as with the Sandbox API.
  await mapped.start("first");
  const changes = () => ({
    root: { path: root },
    linux: { uidMappings: ids, gidMappings: ids },
    namespaces: [
      ...joinedNamespaces(mapped.sandbox, ["pid", "ipc", "uts"]),
      { type: "user", path: `/proc/${mapped.sandbox.pid}/ns/user` },
    ],
  });
  const script =
    "id -u; cat /proc/self/uid_map; ls /dev/mqueue; for name in user pid ipc uts; do readlink /proc/self/ns/$name; done; readlink /proc/1/root";

  const a = await mapped.run("a", script, changes());
  const b = await mapped.run("b", script, changes());

  expect(a.output).toMatch(/^0\n\s+0\s+100000\s+65536\nuser:\[\d+\]\n(\w+:\[\d+\]\n){3}/);
  expect(b).toEqual(a);
});
