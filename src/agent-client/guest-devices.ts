import { RuntimeError } from "../base/errors.ts";
import type { Spec, SpecDevice } from "../oci/spec.ts";

/** A block device of the host that becomes a disk of the VM, and a node in the container. */
export interface BlockDevice {
  /** Node in the container. */
  readonly path: string;
  readonly major: number;
  readonly minor: number;
  readonly readOnly: boolean;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
}

/** Devices that are the same in every Linux kernel, and that the guest has. */
const guestDevices: ReadonlySet<string> = new Set([
  "/dev/null",
  "/dev/zero",
  "/dev/full",
  "/dev/random",
  "/dev/urandom",
  "/dev/tty",
  "/dev/fuse",
  "/dev/net/tun",
]);

/** What a container of the host would open to use a PCI device: its IOMMU group, and the way to all of them. */
const vfioPattern = /^\/dev\/vfio\/(?:(\d{1,9})|vfio)$/;

const defaultMode = 0o660;

/**
 * Whether the container may use every device ("privileged"): then it gets those of the guest, and what its spec lists of
 * the host's is left out.
 */
export function hasAllDevices(spec: Spec): boolean {
  return rules(spec).some(
    ({ allow, type = "a", major, minor, access }) =>
      allow === true &&
      (type === "a" || type === "") &&
      isAny(major) &&
      isAny(minor) &&
      allows(access, "r") &&
      allows(access, "w"),
  );
}

/**
 * The block devices of the host that the container gets. Read-only unless a rule lets it write.
 *
 * @throws invalid_argument  another device of the host
 */
export function blockDevices(spec: Spec): BlockDevice[] {
  if (hasAllDevices(spec)) return [];
  return (spec.linux?.devices ?? [])
    .filter(({ path }) => !guestDevices.has(path) && !vfioPattern.test(path))
    .map((device) => {
      const { path, type, major, minor } = device;
      if (type !== "b" || !isNumber(major) || !isNumber(minor)) throw refused(path);
      return {
        path,
        major,
        minor,
        readOnly: !mayWrite(spec, device),
        fileMode: isNumber(device.fileMode) ? device.fileMode : defaultMode,
        uid: isNumber(device.uid) ? device.uid : 0,
        gid: isNumber(device.gid) ? device.gid : 0,
      };
    });
}

/** The IOMMU groups whose PCI devices become the guest's, where its own kernel drives them. */
export function vfioGroups(spec: Spec): number[] {
  if (hasAllDevices(spec)) return [];
  return (spec.linux?.devices ?? []).flatMap(({ path }) => {
    const group = vfioPattern.exec(path)?.[1];
    return group === undefined ? [] : [Number(group)];
  });
}

/** The devices that the guest's runtime makes by itself. */
export function guestOwnDevices(spec: Spec): SpecDevice[] {
  return (spec.linux?.devices ?? []).filter(({ path }) => guestDevices.has(path));
}

/** The rules that mean the same in the guest: numbers of block devices are the host's. */
export function guestDeviceRules(spec: Spec): readonly object[] {
  return rules(spec).filter(({ type, major }) => type !== "b" || isAny(major));
}

interface DeviceRule {
  readonly allow?: unknown;
  readonly type?: unknown;
  readonly major?: unknown;
  readonly minor?: unknown;
  readonly access?: unknown;
}

function rules(spec: Spec): readonly DeviceRule[] {
  return (spec.linux?.resources?.devices ?? []) as readonly DeviceRule[];
}

function mayWrite(spec: Spec, { major, minor }: SpecDevice): boolean {
  // The last rule that fits counts (cgroup-v1, devices).
  const rule = rules(spec).findLast(
    ({ type = "a", major: ruleMajor, minor: ruleMinor, access }) =>
      (type === "a" || type === "b" || type === "") &&
      (isAny(ruleMajor) || ruleMajor === major) &&
      (isAny(ruleMinor) || ruleMinor === minor) &&
      allows(access, "w"),
  );
  return rule?.allow === true;
}

function allows(access: unknown, letter: "r" | "w"): boolean {
  return typeof access !== "string" || access === "" || access.includes(letter);
}

function isAny(number: unknown): boolean {
  return number === undefined || number === null || number === -1;
}

function isNumber(value: unknown): value is number {
  return Number.isInteger(value) && Number(value) >= 0;
}

function refused(path: string): RuntimeError {
  return new RuntimeError(
    "invalid_argument",
    `Cannot create the container: the device "${path}" of the host cannot be given to a VM; block devices can, and of the guest's own ${[...guestDevices].join(", ")}. For privileged containers of Kubernetes set privileged_without_host_devices`,
  );
}
