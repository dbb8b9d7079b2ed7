import { expect, test } from "vitest";
import { guestSpec, refuseUnsupported } from "../../../src/agent-client/guest-spec.ts";
import { guestSysctls, sharedSysctls } from "../../../src/agent-client/guest-sysctls.ts";
import type { Spec } from "../../../src/oci/spec.ts";

const namespaces = [{ type: "mount" }, { type: "pid" }];
const sources = {
  places: new Map(),
  shared: [0, 1, 2].map((number) => ({ path: `.volumes/${number}`, hasMounts: false })),
};
const options = {
  containerId: "c1",
  terminal: false,
  sources,
  sharedNamespaces: ["ipc"] as const,
};
const small = {
  ociVersion: "1.2.0",
  process: { args: ["true"], cwd: "/" },
  root: { path: "rootfs" },
  linux: { namespaces },
} satisfies Spec;

const guestOfSmall = {
  ociVersion: "1.0.2",
  process: { args: ["true"], cwd: "/", terminal: false },
  root: { path: "/run/caisson/shared/c1/rootfs" },
  mounts: [],
  hooks: { createContainer: [], startContainer: [] },
  linux: { cgroupsPath: "/containers/c1", namespaces },
};

/** `small` with these sections; the fields of `linux` beside its namespaces. */
function make({ linux = {}, ...sections }: { readonly linux?: object } & Record<string, unknown>): Spec {
  return { ...small, ...sections, linux: { ...small.linux, ...linux } } as unknown as Spec;
}

const table: { name: string; spec: Spec; want: object }[] = [
  { name: "the smallest configuration", spec: small, want: guestOfSmall },
  {
    name: "what the guest decides itself",
    spec: make({
      process: {
        ...small.process,
        terminal: true,
        apparmorProfile: "docker-default",
        selinuxLabel: "x",
        oomScoreAdj: 5,
      },
      root: { path: "/var/lib/x", readonly: true },
      annotations: { a: "b" },
      hostname: "h",
      linux: { cgroupsPath: "/kubepods/x", mountLabel: "y", maskedPaths: ["/proc/kcore"], seccomp: { a: 1 } },
    }),
    want: {
      ...guestOfSmall,
      process: { ...guestOfSmall.process, oomScoreAdj: 5 },
      root: { path: "/run/caisson/shared/c1/rootfs", readonly: true },
      hostname: "h",
      linux: { ...guestOfSmall.linux, maskedPaths: ["/proc/kcore"], seccomp: { a: 1 } },
    },
  },
  {
    name: "namespaces: the network's and joined ones go",
    spec: make({
      linux: {
        namespaces: [
          { type: "pid", path: "" },
          { type: "network", path: "/var/run/netns/x" },
          { type: "ipc", path: "/proc/5/ns/ipc" },
          { type: "uts" },
          { type: "mount" },
          { type: "cgroup" },
        ],
      },
    }),
    want: {
      ...guestOfSmall,
      linux: {
        ...guestOfSmall.linux,
        namespaces: [{ type: "pid" }, { type: "uts" }, { type: "mount" }, { type: "cgroup" }],
      },
    },
  },
  {
    name: "sysctls of the guest go, those of IPC and UTS namespaces stay",
    spec: make({
      linux: {
        sysctl: { "net.ipv4.ip_forward": "1", "net/core/somaxconn": "5", "kernel.shmmax": "1", "vm.x": "2" },
      },
    }),
    want: {
      ...guestOfSmall,
      linux: { ...guestOfSmall.linux, sysctl: { "kernel.shmmax": "1" } },
    },
  },
  {
    name: "binds get their places in the share, other mounts stay",
    spec: make({
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/a", type: "bind", source: "/srv/a", options: ["rbind", "ro"] },
        { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["nosuid"] },
        { destination: "/b", source: "/srv/b", options: ["bind"] },
        { destination: "/c", type: "none", source: "/srv/c", options: ["rbind"], uidMappings: [] },
      ],
    }),
    want: {
      ...guestOfSmall,
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        {
          destination: "/a",
          type: "bind",
          source: "/run/caisson/shared/.volumes/0",
          options: ["rbind", "ro"],
        },
        { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["nosuid"] },
        { destination: "/b", type: "bind", source: "/run/caisson/shared/.volumes/1", options: ["bind"] },
        {
          destination: "/c",
          type: "bind",
          source: "/run/caisson/shared/.volumes/2",
          options: ["rbind"],
        },
      ],
    },
  },
  {
    name: "resources: the host's CPUs, disks and network classes go",
    spec: make({
      linux: {
        resources: {
          cpu: { shares: 512, quota: 10_000, period: 100_000, cpus: "0-3", mems: "0" },
          memory: { limit: 1_000_000 },
          blockIO: { weight: 10 },
          network: { classID: 1 },
          pids: { limit: 10 },
        },
      },
    }),
    want: {
      ...guestOfSmall,
      linux: {
        ...guestOfSmall.linux,
        resources: {
          cpu: { shares: 512, quota: 10_000, period: 100_000 },
          memory: { limit: 1_000_000 },
          pids: { limit: 10 },
        },
      },
    },
  },
  { name: "resources of null", spec: make({ linux: { resources: null } }), want: guestOfSmall },
  {
    name: "hooks: those of the container's namespace go to the guest",
    spec: make({
      hooks: {
        prestart: [{ path: "/host" }],
        createRuntime: [{ path: "/host" }],
        createContainer: [{ path: "/in/a" }],
        startContainer: [{ path: "/in/b" }],
        poststart: [{ path: "/host" }],
        poststop: [{ path: "/host" }],
      },
    }),
    want: {
      ...guestOfSmall,
      hooks: { createContainer: [{ path: "/in/a" }], startContainer: [{ path: "/in/b" }] },
    },
  },
  {
    name: "device rules: numbers of block devices are the host's",
    spec: make({
      linux: {
        resources: {
          devices: [
            { allow: false, access: "rwm" },
            { allow: true, type: "c", major: 1, minor: 3, access: "rwm" },
            { allow: true, type: "b", major: 7, minor: 0, access: "rwm" },
          ],
        },
      },
    }),
    want: {
      ...guestOfSmall,
      linux: {
        ...guestOfSmall.linux,
        resources: {
          devices: [
            { allow: false, access: "rwm" },
            { allow: true, type: "c", major: 1, minor: 3, access: "rwm" },
          ],
        },
      },
    },
  },
  {
    name: "devices that every kernel has; disks are the agent's to add",
    spec: make({
      linux: {
        devices: [
          { path: "/dev/null", type: "c" },
          { path: "/dev/fuse", type: "c" },
          { path: "/dev/data", type: "b", major: 7, minor: 0 },
        ],
      },
    }),
    want: {
      ...guestOfSmall,
      linux: {
        ...guestOfSmall.linux,
        devices: [
          { path: "/dev/null", type: "c" },
          { path: "/dev/fuse", type: "c" },
        ],
      },
    },
  },
];

test.each(table)("guestSpec(): $name", ({ spec, want }) => {
  const before = structuredClone(spec);

  expect(guestSpec(spec, options)).toEqual(want);
  expect(spec).toEqual(before);
});

test("guestSpec() takes the terminal from the request, not from the file", () => {
  expect(guestSpec(small, { ...options, terminal: true }).process?.terminal).toBe(true);
});

const refused: { name: string; spec: Spec; code: string; words: string }[] = [
  { name: "Intel RDT", spec: make({ linux: { intelRdt: {} } }), code: "unimplemented", words: "intelRdt" },
  {
    name: "a seccomp listener",
    spec: make({ linux: { seccomp: { defaultAction: "x", listenerPath: "/run/x.sock" } } }),
    code: "unimplemented",
    words: "listenerPath",
  },
];

test.each(refused)("refuseUnsupported(): $name", ({ spec, code, words }) => {
  expect(() => refuseUnsupported(spec)).toThrow(
    expect.objectContaining({ code, message: expect.stringContaining(words) }),
  );
});

test("sysctls: all but those of the UTS namespace at the boot, and without those of IPC for each container", () => {
  const sysctl = {
    "net.ipv4.ip_forward": "1",
    "net/core/somaxconn": "5",
    "kernel.shm_rmid_forced": "1",
    "kernel.sem": "1 2 3 4",
    "fs.mqueue.msg_max": "100",
    "kernel.hostname": "h",
    "vm.swappiness": "0",
    "network.x": "1",
  };

  expect(Object.keys(guestSysctls(make({ linux: { sysctl } })))).toEqual([
    "net.ipv4.ip_forward",
    "net/core/somaxconn",
    "kernel.shm_rmid_forced",
    "kernel.sem",
    "fs.mqueue.msg_max",
    "vm.swappiness",
    "network.x",
  ]);
  expect(Object.keys(sharedSysctls(make({ linux: { sysctl } })))).toEqual([
    "net.ipv4.ip_forward",
    "net/core/somaxconn",
    "vm.swappiness",
    "network.x",
  ]);
  expect(guestSysctls(small)).toEqual({});
});
