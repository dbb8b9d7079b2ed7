import { expect, test } from "vitest";
import type { Spec } from "../../../src/oci/spec.ts";
import { mayLeaveWrites } from "../../../src/sandbox/guest-writes.ts";

const specWith = (...namespaces: object[]) => ({ linux: { namespaces } }) as unknown as Spec;
const own = specWith({ type: "mount" }, { type: "pid" });
const none = { blockDevices: [], vfioGroups: [] };

test("a container with its own PID namespace and no disk leaves no writes in the guest", () => {
  expect(mayLeaveWrites(own, none)).toBe(false);
  expect(mayLeaveWrites(specWith({ type: "pid", path: "" }), none)).toBe(false);
});

test.for([
  ["shares a PID namespace", specWith({ type: "pid", path: "/proc/1/ns/pid" }), none],
  ["has none", specWith({ type: "mount" }), none],
  ["says nothing of namespaces", {} as Spec, none],
  ["has a disk", own, { ...none, blockDevices: [{}] as never }],
  ["has a PCI device", own, { ...none, vfioGroups: [1] }],
] as const)("one that %s may", ([, spec, plan]) => {
  expect(mayLeaveWrites(spec, plan)).toBe(true);
});
