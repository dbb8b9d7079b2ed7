import { expect, test } from "vitest";
import { bindSources, guestMounts, sharedMemoryBind } from "../../../src/agent-client/guest-mounts.ts";
import type { Spec, SpecMount } from "../../../src/oci/spec.ts";

function withMounts(mounts: readonly object[], linux: object = {}): Spec {
  return { ociVersion: "1.2.0", root: { path: "rootfs" }, mounts, linux } as unknown as Spec;
}

const plain = { recursive: true, readOnly: "none", propagation: "private", idMap: undefined };
const table = [
  { name: "type bind alone", mount: { type: "bind" }, want: plain },
  { name: "bind", mount: { options: ["bind"] }, want: { ...plain, recursive: false } },
  { name: "rbind", mount: { type: "none", options: ["rbind", "rprivate"] }, want: plain },
  { name: "ro", mount: { options: ["rbind", "ro"] }, want: { ...plain, readOnly: "top" } },
  { name: "rro", mount: { options: ["rbind", "rro"] }, want: { ...plain, readOnly: "all" } },
  { name: "rslave", mount: { options: ["rbind", "rslave"] }, want: { ...plain, propagation: "slave" } },
  { name: "rshared", mount: { options: ["rbind", "rshared"] }, want: { ...plain, propagation: "slave" } },
  {
    name: "mapped ids of its own",
    mount: {
      type: "bind",
      uidMappings: [
        { containerID: 0, hostID: 1000, size: 1 },
        { containerID: 1, hostID: 100_000, size: 65_535 },
      ],
      gidMappings: [{ containerID: 0, hostID: 2000, size: 10 }],
    },
    want: {
      ...plain,
      idMap: { uids: "0 1000 1\n1 100000 65535\n", gids: "0 2000 10\n", recursive: false },
    },
  },
  {
    name: "mapped ids of the container",
    mount: { options: ["rbind", "ridmap"] },
    want: { ...plain, idMap: { uids: "0 5 6\n", gids: "0 5 6\n", recursive: true } },
  },
];

test.each(table)("bindSources(): $name", ({ mount, want }) => {
  const mappings = [{ containerID: 0, hostID: 5, size: 6 }];
  const spec = withMounts([{ destination: "/x", source: "/y", ...mount }], {
    uidMappings: mappings,
    gidMappings: mappings,
  });

  expect(bindSources(spec, new Map())).toEqual([{ source: "/y", ...want }]);
});

test("bindSources() refuses mapped ids without a mapping", () => {
  const spec = withMounts([{ destination: "/x", type: "bind", source: "/y", options: ["idmap"] }]);

  expect(() => bindSources(spec, new Map())).toThrow('the mount at "/x"');
});

const shared = (number: number, hasMounts = false) => ({ path: `.volumes/${number}`, hasMounts });

test("ro is left to the host where something is mounted below, rro is not", () => {
  const spec = withMounts([
    { destination: "/a", type: "bind", source: "/a", options: ["rbind", "ro"] },
    { destination: "/b", type: "bind", source: "/b", options: ["rbind", "rro"] },
  ]);
  const optionsOf = (hasMounts: boolean) =>
    guestMounts(spec, { places: new Map(), shared: [shared(0, hasMounts), shared(1, hasMounts)] }).map(
      ({ options }) => options,
    );

  expect(optionsOf(false)).toEqual([
    ["rbind", "ro"],
    ["rbind", "rro"],
  ]);
  expect(optionsOf(true)).toEqual([["rbind"], ["rbind", "rro"]]);
});

test("what has a place in the guest is not shared, and the numbers are the same on both sides", () => {
  const shm: SpecMount = { destination: "/dev/shm", type: "bind", source: "/run/shm", options: ["rbind"] };
  const spec = withMounts([
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/a", type: "bind", source: "/srv/a" },
    shm,
    { destination: "/b", type: "bind", source: "/srv/b", options: ["rbind", "idmap", "ro"], uidMappings: [] },
  ]);
  const places = new Map([[shm, "/run/caisson/memory/0"]]);

  const mappable = { ...spec, linux: { uidMappings: mappings, gidMappings: mappings } };
  expect(bindSources(mappable, places).map(({ source }) => source)).toEqual(["/srv/a", "/srv/b"]);
  expect(guestMounts(spec, { places, shared: [shared(7), shared(8)] })).toEqual([
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/a", type: "bind", source: "/run/caisson/shared/.volumes/7", options: [] },
    {
      destination: "/dev/shm",
      type: "bind",
      source: "/run/caisson/memory/0",
      options: ["rbind", "nosuid", "nodev", "noexec"],
    },
    {
      destination: "/b",
      type: "bind",
      source: "/run/caisson/shared/.volumes/8",
      options: ["rbind", "ro"],
    },
  ]);
});

const mappings = [{ containerID: 0, hostID: 5, size: 6 }];

test.each([
  { destination: "/dev/shm", is: true },
  { destination: "//dev/shm/", is: true },
  { destination: "/dev/shm/x", is: false },
  { destination: "/devshm", is: false },
])("sharedMemoryBind(): $destination", ({ destination, is }) => {
  const mount = { destination, type: "bind", source: "/y" };

  expect(sharedMemoryBind(withMounts([mount]))).toBe(is ? mount : undefined);
  expect(sharedMemoryBind(withMounts([{ ...mount, type: "tmpfs" }]))).toBeUndefined();
});
