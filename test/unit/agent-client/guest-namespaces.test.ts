import { expect, test } from "vitest";
import { sharedNamespaces } from "../../../src/agent-client/guest-namespaces.ts";
import type { Spec } from "../../../src/oci/spec.ts";

const own = ["network", "mount", "pid", "ipc", "uts"].map((type) => ({ type }));

function withNamespaces(namespaces: readonly object[] | undefined): Spec {
  return { ociVersion: "1.2.0", root: { path: "rootfs" }, linux: { namespaces } } as unknown as Spec;
}

const joining = (type: string, path: string) => [
  ...own.filter((entry) => entry.type !== type),
  { type, path },
];

test("namespaces of its own and an empty path share nothing", () => {
  expect(sharedNamespaces(withNamespaces([...own, { type: "user", path: "" }]), [7])).toEqual([]);
});

test("the paths of the process that stands for the sandbox are shared, whatever the network's is", () => {
  const namespaces = [
    { type: "mount" },
    { type: "network", path: "/run/netns/x" },
    ...["ipc", "uts", "pid", "user"].map((type) => ({ type, path: `/proc/77/ns/${type}` })),
  ];

  expect(sharedNamespaces(withNamespaces(namespaces), [78_000, 77])).toEqual(["ipc", "uts", "pid", "user"]);
});

test.each([
  { name: "another process", type: "ipc", path: "/proc/78/ns/ipc" },
  { name: "a namespace of another kind", type: "ipc", path: "/proc/77/ns/pid" },
  { name: "a bound namespace", type: "user", path: "/run/userns/x" },
  { name: "a way round", type: "pid", path: "/proc/77/../1/ns/pid" },
  { name: "the mount namespace", type: "mount", path: "/proc/77/ns/mount" },
  { name: "the cgroup namespace", type: "cgroup", path: "/proc/77/ns/cgroup" },
])("$name cannot be joined", ({ type, path }) => {
  expect(() => sharedNamespaces(withNamespaces(joining(type, path)), [78_000, 77])).toThrow(
    expect.objectContaining({ code: "invalid_argument", message: expect.stringContaining(`"${path}"`) }),
  );
});

test("a user namespace that was made for a pod is the first container's own, by its mappings", () => {
  const mappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  const spec = withNamespaces(joining("user", "/run/sandboxes/x/userns"));
  const mapped = { ...spec, linux: { ...spec.linux, uidMappings: mappings, gidMappings: mappings } };

  expect(sharedNamespaces(mapped, [])).toEqual([]);
  expect(() => sharedNamespaces(spec, [])).toThrow("/run/sandboxes/x/userns");
  expect(() => sharedNamespaces(mapped, [77])).toThrow("/run/sandboxes/x/userns");
});

test("the first container of a sandbox can join nothing", () => {
  expect(() => sharedNamespaces(withNamespaces(joining("pid", "/proc/0/ns/pid")), [])).toThrow("/proc/0/");
});

test.each(["network", "mount", "pid", "ipc", "uts"])("the host's %s namespace is refused", (type) => {
  const namespaces = own.filter((entry) => entry.type !== type);

  expect(() => sharedNamespaces(withNamespaces(namespaces), [78_000, 77])).toThrow(
    expect.objectContaining({ code: "failed_precondition", message: expect.stringContaining(type) }),
  );
});

test("no namespaces at all are the host's", () => {
  expect(() => sharedNamespaces(withNamespaces(undefined), [])).toThrow("network namespace");
});
