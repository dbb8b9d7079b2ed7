import { hostname } from "node:os";
import { expect, test } from "vitest";
import { runtime } from "../../../src/gen/sandbox.js";
import { int64 } from "../../../src/gen/int64.ts";
import { planPod } from "../../../src/shim/pod-spec.ts";

const pod = (config: runtime.v1.PodSandboxConfig.$Properties, typeUrl = "runtime.v1.PodSandboxConfig") => ({
  sandboxId: "s1",
  netnsPath: "/run/netns/x",
  options: { typeUrl, value: runtime.v1.PodSandboxConfig.encode(config).finish() },
  annotations: {},
});

test("planPod() says what CRI says of a pause container", () => {
  const plan = planPod(
    pod({
      metadata: { name: "web", uid: "u1", namespace: "prod", attempt: 1 },
      hostname: "web-0",
      dnsConfig: { servers: ["10.0.0.1", "10.0.0.2"], searches: ["a.b", "c"], options: ["ndots:5"] },
      annotations: { "io.caisson.vcpus": "2" },
      linux: {
        cgroupParent: "/kubepods/pod1",
        sysctls: { "net.core.somaxconn": "9" },
        resources: {
          cpuPeriod: int64(100_000n),
          cpuQuota: int64(150_000n),
          cpuShares: int64(512n),
          memoryLimitInBytes: int64(1n << 30n),
        },
      },
    }),
  );

  expect(plan).toEqual({
    hostname: "web-0",
    resolvConf: "search a.b c\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n",
    spec: {
      ociVersion: "1.0.2",
      root: { path: "rootfs" },
      hostname: "web-0",
      annotations: {
        "io.caisson.vcpus": "2",
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": "s1",
        "io.kubernetes.cri.sandbox-name": "web",
        "io.kubernetes.cri.sandbox-namespace": "prod",
        "io.kubernetes.cri.sandbox-uid": "u1",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-cpu-quota": "150000",
        "io.kubernetes.cri.sandbox-cpu-shares": "512",
        "io.kubernetes.cri.sandbox-memory": "1073741824",
      },
      linux: {
        namespaces: [{ type: "network", path: "/run/netns/x" }],
        sysctl: { "net.core.somaxconn": "9" },
        cgroupsPath: "/kubepods/pod1/s1",
      },
    },
  });
});

test("planPod() takes a pod without anything, and one without options", () => {
  const { plan, none } = {
    plan: planPod(pod({})),
    none: planPod({ ...pod({}), options: undefined, annotations: { a: "b" } }),
  };

  expect(plan).toMatchObject({ hostname: hostname(), resolvConf: "" });
  expect(plan.spec.linux).not.toHaveProperty("cgroupsPath");
  expect(none.spec.annotations).toMatchObject({ a: "b" });
});

test("planPod() names the cgroup of a systemd slice as systemd does", () => {
  const { spec } = planPod(pod({ linux: { cgroupParent: "/kubepods.slice/kubepods-pod1.slice" } }));

  expect(spec.linux?.cgroupsPath).toBe("kubepods-pod1.slice:cri-containerd:s1");
});

test.for([
  { name: "the host's network", request: { ...pod({}), netnsPath: "" }, want: /host's network.*own/ },
  { name: "options of another type", request: pod({}, "other.Type"), want: /type "other.Type"/ },
  {
    name: "options that are no message",
    request: {
      ...pod({}),
      options: { typeUrl: "runtime.v1.PodSandboxConfig", value: Buffer.from("ffff", "hex") },
    },
    want: /cannot be decoded/,
  },
])("planPod() refuses $name", ({ request, want }) => {
  expect(() => planPod(request)).toThrowError(want);
});

const one = { hostId: 100_000, containerId: 0, length: 65_536 };
const { POD, CONTAINER, NODE } = runtime.v1.NamespaceMode;
const inUserNamespace = (usernsOptions: runtime.v1.UserNamespace.$Properties) =>
  pod({ linux: { securityContext: { namespaceOptions: { usernsOptions } } } });

test.for([
  { mode: POD, uids: [one], gids: [one] },
  { mode: NODE, uids: [], gids: [] },
])("planPod() takes a user namespace that can be: $mode", (userns) => {
  expect(planPod(inUserNamespace(userns)).hostname).toBe(hostname());
});

test.for([
  { mode: POD, uids: [one, one], gids: [one], fact: /2 mappings of one kind/ },
  { mode: POD, uids: [one], gids: [], fact: /needs a mapping of users and one of groups/ },
  { mode: POD, uids: [{ ...one, length: 0 }], gids: [one], fact: /a mapping of no ids/ },
  { mode: POD, uids: [one], gids: [{ ...one, containerId: 1 }], fact: /does not map the id 0/ },
  { mode: NODE, uids: [one], gids: [one], fact: /the node's/ },
  { mode: CONTAINER, uids: [one], gids: [one], fact: /has the mode 1/ },
])("planPod() refuses a user namespace: $fact", ({ fact, ...userns }) => {
  expect(() => planPod(inUserNamespace(userns))).toThrow(fact);
});
