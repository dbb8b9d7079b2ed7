// config.json, CreateTask's mounts and streams, and annotations of the list of bad input through the real model, by their
// numbers there: what the tables of test/unit/oci, test/unit/agent-client and test/unit/config refuse is refused here before
// anything is made, what comes later is undone. Which other tests have the rest is in README.md.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { expect, test } from "vitest";
import { makePod, picture } from "../network/pod.ts";
import { createModel, goodSpec, type Model } from "./model.ts";

type Creation = NonNullable<Parameters<Model["create"]>[0]>;

interface Row {
  readonly name: string;
  readonly make: (model: Model) => Creation;
  readonly code: string;
  readonly message: RegExp;
}

const resources = (fields: object) => ({ spec: { linux: { ...goodSpec.linux, resources: fields } } });
const own = ["mount", "pid", "ipc", "uts"].map((type) => ({ type }));
const network = (path: string) => ({
  spec: { linux: { namespaces: [...own, { type: "network", path }] } },
});
const mounts = (...entries: object[]) => ({ spec: { mounts: entries } });
const rootfs = (type: string, source: string, options: readonly string[] = []) => ({
  request: { rootfs: [{ type, source, target: "", options }] },
});
const stdio = (fields: object) => ({
  request: { stdio: { stdin: "", stdout: "", stderr: "", terminal: false, ...fields } },
});
const json = (fields: string) => JSON.stringify(goodSpec).replace(/^\{/, () => `{${fields},`);

const rows: readonly Row[] = [
  {
    name: "52 an empty root file system",
    make: (model) => {
      mkdirSync(model.dir.join("bundle", "empty"));
      return { spec: { root: { path: "empty" } } };
    },
    code: "failed_precondition",
    message: /its root file system ".*\/empty" is empty/,
  },
  {
    name: "52 a root file system that is a file",
    make: () => ({ spec: { root: { path: "rootfs/file" } } }),
    code: "not_found",
    message: /Cannot use the root file system/,
  },
  {
    name: "51 a mount of an unknown type",
    make: () => rootfs("nosuchfs", "x"),
    code: "internal",
    message: /nosuchfs/,
  },
  {
    name: "53 an overlay over nothing",
    make: (model) => rootfs("overlay", "overlay", [`lowerdir=${model.dir.join("x")}\\:y:/nowhere`]),
    code: "not_found",
    message: /overlay/,
  },
  {
    name: "125 a layer that is a directory in the place of a disk",
    make: (model) => rootfs("ext4", model.bundle, ["loop"]),
    code: "internal",
    message: /ext4|loop/,
  },
  {
    name: "55 stdout to a program of the host",
    make: (model) => stdio({ stdout: `binary:///bin/touch?${model.dir.join("touched")}` }),
    code: "unimplemented",
    message: /the scheme "binary" is not supported/,
  },
  {
    name: "55 stderr to the network",
    make: () => stdio({ stderr: "https://example.org/" }),
    code: "unimplemented",
    message: /the scheme "https"/,
  },
  {
    name: "55 stdin from a file",
    make: (model) => stdio({ stdin: `${model.bundle}/config.json` }),
    code: "invalid_argument",
    message: /expected a FIFO/,
  },
  {
    name: "77 a bind of what is not there",
    make: () => mounts({ destination: "/x", type: "bind", source: "/nowhere/at/all" }),
    code: "not_found",
    message: /"\/nowhere\/at\/all"/,
  },
  {
    name: "77 the third bind of what is not there, the others being mounted",
    make: (model) =>
      mounts(
        { destination: "/a", type: "bind", source: model.dir.join("guest") },
        { destination: "/b", type: "bind", source: "/etc/hostname" },
        { destination: "/c", type: "bind", source: "/nowhere" },
      ),
    code: "not_found",
    message: /"\/nowhere"/,
  },
  {
    name: "78 a bind of a FIFO",
    make: (model) => {
      execFileSync("mkfifo", [model.dir.join("fifo")]);
      return mounts({ destination: "/x", type: "bind", source: model.dir.join("fifo") });
    },
    code: "invalid_argument",
    message: /expected a directory or a regular file/,
  },
  {
    name: "78 a bind of a disk",
    make: (model) => {
      execFileSync("mknod", [model.dir.join("disk"), "b", "240", "250"]);
      return mounts({ destination: "/x", type: "bind", source: model.dir.join("disk") });
    },
    code: "invalid_argument",
    message: /expected a directory or a regular file/,
  },
  {
    name: "83 a disk of the host",
    make: () => ({ spec: { linux: { ...goodSpec.linux, devices: [{ path: "/dev/sda", type: "b" }] } } }),
    code: "invalid_argument",
    message: /"\/dev\/sda" of the host/,
  },
  {
    name: "84 no network namespace: the host's network",
    make: () => ({ spec: { linux: { namespaces: own } } }),
    code: "failed_precondition",
    message: /no network namespace of its own, and the host's/,
  },
  {
    name: "84 the network namespace of the host",
    make: () => network("/proc/self/ns/net"),
    code: "failed_precondition",
    message: /it is the host's own network/,
  },
  {
    name: "84 a network namespace that is not there",
    make: () => network("/run/netns/nowhere"),
    code: "not_found",
    message: /\/run\/netns\/nowhere/,
  },
  {
    name: "84 a network namespace that is a file",
    make: () => network("/etc/hostname"),
    code: "not_found",
    message: /\/etc\/hostname/,
  },
  {
    name: "84 a network namespace that is another one",
    // Only setns(2) can tell.
    make: () => network("/proc/self/ns/pid"),
    code: "internal",
    message: /\/proc\/self\/ns\/pid.*Invalid argument/,
  },
  {
    name: "86 a memory limit of 1 byte",
    make: () => resources({ memory: { limit: 1 } }),
    code: "invalid_argument",
    message: /memory limit of 1 bytes/,
  },
  {
    name: "86 more memory than the host has",
    make: () => resources({ memory: { limit: 2 ** 52 } }),
    code: "invalid_argument",
    message: /above the \d+ MiB of this host/,
  },
  {
    name: "91 Intel RDT",
    make: () => ({ spec: { linux: { ...goodSpec.linux, intelRdt: {} } } }),
    code: "unimplemented",
    message: /intelRdt/,
  },
  {
    name: "62 a document that ends early",
    make: () => ({ spec: JSON.stringify(goodSpec).slice(0, -1) }),
    code: "invalid_argument",
    message: /config\.json": it is not valid JSON/,
  },
  {
    name: "63 keys that stand twice",
    make: () => ({ spec: json('"root":{"path":"/"}') }),
    code: "invalid_argument",
    message: /"root" stands twice/,
  },
  {
    name: "85 a cgroup path that leads out",
    make: () => ({ spec: { linux: { ...goodSpec.linux, cgroupsPath: "/../x" } } }),
    code: "invalid_argument",
    message: /^Cannot use the cgroup path "\/\.\.\/x": expected a cgroup below the root/,
  },
  {
    name: "85 a cgroup path of 4 KiB",
    make: () => ({ spec: { linux: { ...goodSpec.linux, cgroupsPath: `/${"x".repeat(4096)}` } } }),
    code: "invalid_argument",
    message: /expected at most 2048 characters/,
  },
  {
    name: "96 a kernel by an annotation",
    make: () => ({ spec: { annotations: { "io.caisson.kernel": "/etc/passwd" } } }),
    code: "invalid_argument",
    message: /"io\.caisson\.kernel": it is not listed in "allowed_annotations"/,
  },
  {
    name: "96 settings that no annotation has",
    make: () => ({ spec: { annotations: { "io.caisson.kernel_params": "init=/bin/sh" } } }),
    code: "invalid_argument",
    message: /"io\.caisson\.kernel_params": it is not known/,
  },
  {
    name: "99 fifty thousand annotations of ours",
    make: () => ({
      spec: {
        annotations: Object.fromEntries(
          Array.from({ length: 50_000 }, (_, index) => [`io.caisson.${index}`, ""]),
        ),
      },
    }),
    code: "invalid_argument",
    message: /^Cannot use the annotation "io\.caisson\.0"/,
  },
];

test.each(rows)(
  "$name is refused, nothing is left, and the id works again",
  async ({ make, code, message }) => {
    await using model = createModel();

    const failed = model.create(make(model));

    await expect(failed).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
    expect(model.leftovers()).toEqual([]);
    expect(model.events).toEqual([]);
    expect(existsSync(model.dir.join("touched"))).toBe(false);
    await (await model.create()).delete("");
    expect(model.events).toEqual(["create c1", "exit c1 - 137", "delete c1"]);
    expect(model.leftovers()).toEqual([]);
  },
);

const accepted: readonly { readonly name: string; readonly make: (model: Model) => Creation }[] = [
  {
    // Containerd's names for them, with which the options are larger than a page (mount(2)).
    name: "53 an overlay of 300 layers",
    make: (model) => {
      const layers = Array.from({ length: 300 }, (_, index) =>
        model.dir.join("io.containerd.snapshotter.v1.overlayfs", "snapshots", String(index), "fs"),
      );
      for (const layer of layers) mkdirSync(layer, { recursive: true });
      writeFileSync(`${layers[299]}/file`, "");
      return rootfs("overlay", "overlay", [`lowerdir=${layers.join(":")}`]);
    },
  },
  {
    name: "53, 54 a mount whose source is a symbolic link with a comma and a colon in its name",
    make: (model) => {
      symlinkSync(model.dir.join("guest"), model.dir.join("a,b:c"));
      return rootfs("bind", model.dir.join("a,b:c"), ["rbind", "ro"]);
    },
  },
  {
    name: "79 a hundred binds",
    make: (model) =>
      mounts(
        ...Array.from({ length: 100 }, (_, index) => ({
          destination: `/m${index}`,
          type: "bind",
          source: model.dir.join("guest"),
        })),
      ),
  },
  {
    name: "86 limits that mean none",
    make: () => resources({ memory: { limit: -1 }, cpu: { quota: -1, period: -5, shares: 1 } }),
  },
  {
    name: "95 keys that every object has",
    make: () => ({
      spec: json('"__proto__":{"root":{"path":"/"}},"constructor":{"prototype":{"polluted":true}}'),
    }),
  },
  {
    name: "99, 100 annotations of others, large and many",
    make: () => ({
      spec: {
        annotations: {
          "containerd.io/restart.loguri": "binary:///bin/touch?/tmp/touched",
          ["k".repeat(4096)]: "v".repeat(100_000),
          ...Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`k${index}`, ""])),
        },
      },
    }),
  },
];

test.each(accepted)("$name does no harm: the container is created, and nothing is left", async ({ make }) => {
  await using model = createModel();

  await (await model.create(make(model))).delete("");

  expect(model.leftovers()).toEqual([]);
  expect(Object.hasOwn(Object.prototype, "polluted")).toBe(false);
});

test("what is refused is so at once, although nobody reads the container's output", async () => {
  await using model = createModel();
  execFileSync("mkfifo", [model.dir.join("out")]);
  const begin = performance.now();

  const creation = { ...resources({ memory: { limit: 1 } }), ...stdio({ stdout: model.dir.join("out") }) };
  await expect(model.create(creation)).rejects.toMatchObject({ code: "invalid_argument" });

  expect(performance.now() - begin).toBeLessThan(5_000);
  expect(model.leftovers()).toEqual([]);
});

test("55 stdio that is a socket somebody serves is refused, and nobody is connected to", async () => {
  await using model = createModel();
  let connections = 0;
  const server = createServer(() => (connections += 1));
  await new Promise<void>((resolve) => server.listen(model.dir.join("socket"), resolve));

  await expect(model.create(stdio({ stdout: model.dir.join("socket") }))).rejects.toMatchObject({
    code: "invalid_argument",
  });

  expect(connections).toBe(0);
  expect(model.leftovers()).toEqual([]);
  await new Promise((resolve) => server.close(resolve));
});

test("84 a sandbox that wants another one's network namespace is refused and leaves it its network", async () => {
  using net = makePod();
  await using first = createModel();
  await using second = createModel();
  await first.create(network(net.pod.path));
  const before = picture(net.pod);
  expect(before).toContain("tap0_caisson");

  const failed = second.create(network(net.pod.path));

  await expect(failed).rejects.toMatchObject({ code: "already_exists" });
  expect(picture(net.pod)).toBe(before);
  expect(second.leftovers()).toEqual([]);
});
