import { expect, test } from "vitest";
import { blockDevices, hasAllDevices, vfioGroups } from "../../../src/agent-client/guest-devices.ts";
import type { Spec } from "../../../src/oci/spec.ts";

function make(devices: readonly object[], rules: readonly object[] | undefined): Spec {
  return {
    ociVersion: "1.2.0",
    root: { path: "rootfs" },
    linux: { devices, resources: { devices: rules } },
  } as unknown as Spec;
}

const disk = { path: "/dev/data", type: "b", major: 7, minor: 3, fileMode: 0o600, uid: 5, gid: 6 };
const nothing = { allow: false, access: "rwm" };
const rule = (access: string, more: object = {}) => ({
  allow: true,
  type: "b",
  major: 7,
  minor: 3,
  access,
  ...more,
});

test("a block device with its numbers, permissions and owner", () => {
  const wanted = [{ path: "/dev/null", type: "c" }, disk, { path: "/dev/x", type: "b", major: 8, minor: 0 }];

  expect(blockDevices(make(wanted, [nothing, rule("rwm")]))).toEqual([
    { path: "/dev/data", major: 7, minor: 3, readOnly: false, fileMode: 0o600, uid: 5, gid: 6 },
    { path: "/dev/x", major: 8, minor: 0, readOnly: true, fileMode: 0o660, uid: 0, gid: 0 },
  ]);
});

test("PCI devices by their IOMMU groups, which are no devices of the container", () => {
  const vfio = ["/dev/vfio/vfio", "/dev/vfio/12", "/dev/vfio/3"].map((path) => ({ path, type: "c" }));

  expect(vfioGroups(make([...vfio, disk], undefined))).toEqual([12, 3]);
  expect(blockDevices(make(vfio, undefined))).toEqual([]);
  expect(() => blockDevices(make([{ path: "/dev/vfio/12/../x", type: "c" }], undefined))).toThrow(
    /cannot be given/,
  );
});

test.each([
  { name: "no rule at all", rules: undefined, readOnly: true },
  { name: "a rule to read", rules: [nothing, rule("rm")], readOnly: true },
  { name: "a rule to write", rules: [nothing, rule("rw")], readOnly: false },
  { name: "a rule for another device", rules: [nothing, rule("rwm", { minor: 4 })], readOnly: true },
  { name: "a rule for character devices", rules: [nothing, rule("rwm", { type: "c" })], readOnly: true },
  { name: "a rule for every minor", rules: [nothing, rule("w", { minor: -1 })], readOnly: false },
  { name: "a later rule that takes it back", rules: [rule("rwm"), nothing], readOnly: true },
])("$name: read-only is $readOnly", ({ rules, readOnly }) => {
  expect(blockDevices(make([disk], rules))).toMatchObject([{ readOnly }]);
});

test.each([
  { path: "/dev/kvm", type: "c", major: 10, minor: 232 },
  { path: "/dev/mem", type: "c", major: 1, minor: 1 },
  { path: "/dev/../dev/null", type: "c", major: 1, minor: 3 },
  { path: "/dev/sda", type: "b" },
  { path: "/dev/sda", type: "b", major: -1, minor: 0 },
])("refused: $path of type $type", (device) => {
  expect(() => blockDevices(make([device], []))).toThrow(
    expect.objectContaining({
      code: "invalid_argument",
      message: expect.stringContaining(`"${device.path}"`),
    }),
  );
});

test("a container that may use every device gets none of the host's", () => {
  const spec = make([disk, { path: "/dev/kvm", type: "c" }], [{ allow: true, access: "rwm" }]);

  expect(hasAllDevices(spec)).toBe(true);
  expect(blockDevices(spec)).toEqual([]);
});

test.each([[rule("rwm")], [{ allow: true, type: "c", access: "rwm" }], [{ allow: true, access: "r" }], []])(
  "not every device: %j",
  (...rules) => {
    expect(hasAllDevices(make([], rules))).toBe(false);
  },
);
