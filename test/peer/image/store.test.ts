import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type Image, type ImageOptions, openImage } from "../../../src/image/store.ts";
import { removeTree } from "../../../src/storage/remove-tree.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

/** A layout with one image in two layers, made by umoci. */
function makeLayout(directory: TempDir): string {
  const layout = directory.join("layout");
  const bundle = directory.join("bundle");
  const umoci = (...args: string[]) => execFileSync("umoci", args, { stdio: "pipe" });
  umoci("init", "--layout", layout);
  umoci("new", "--image", `${layout}:v1`);
  umoci("unpack", "--image", `${layout}:v1`, bundle);
  mkdirSync(`${bundle}/rootfs/etc`);
  writeFileSync(`${bundle}/rootfs/etc/passwd`, "web:x:33:33::/:/bin/sh\n");
  writeFileSync(`${bundle}/rootfs/gone`, "");
  umoci("repack", "--refresh-bundle", "--image", `${layout}:v1`, bundle);
  writeFileSync(`${bundle}/rootfs/second`, "layer", { mode: 0o751 });
  rmSync(`${bundle}/rootfs/gone`);
  umoci("repack", "--image", `${layout}:v1`, bundle);
  umoci(
    "config",
    "--image",
    `${layout}:v1`,
    "--config.cmd",
    "/second",
    "--config.env",
    "A=b",
    "--config.user",
    "web",
  );
  return layout;
}

function options(
  directory: TempDir,
  extra: Partial<ImageOptions> = {},
): ImageOptions & { reports: string[] } {
  const reports: string[] = [];
  return {
    reports,
    imagesDirectory: directory.join("images"),
    signal: new AbortController().signal,
    report: (text) => reports.push(text),
    environment: {},
    ...extra,
  };
}

const left = (directory: TempDir) =>
  readdirSync(directory.join("images")).filter((name) => name.startsWith("."));

test("an image is unpacked once, whatever it came in", async () => {
  await using directory = createTempDir();
  const layout = makeLayout(directory);
  const first = options(directory);
  const image = await openImage(`oci:${layout}:v1`, first);
  expect(image).toMatchObject({ kind: "layered", config: { command: ["/second"], user: "web" } });
  expect(image.config.env).toContain("A=b");
  expect(first.reports).toEqual([`fetching oci:${layout}:v1`, `unpacking oci:${layout}:v1`]);
  expect(readFileSync(`${image.rootfs}/second`, "utf8")).toBe("layer");
  expect(statSync(`${image.rootfs}/second`).mode & 0o777).toBe(0o751);
  expect(readdirSync(image.rootfs)).not.toContain("gone");

  const again = options(directory);
  expect((await openImage(`oci:${layout}`, again)).rootfs).toBe(image.rootfs);
  expect(again.reports).toEqual([]);

  execFileSync(
    "skopeo",
    ["--insecure-policy", "copy", `oci:${layout}:v1`, `oci-archive:${directory.join("a.tar")}`],
    { stdio: "pipe" },
  );
  const archive = options(directory);
  expect((await openImage(`oci-archive:${directory.join("a.tar")}`, archive)).rootfs).toBe(image.rootfs);
  expect(archive.reports).toHaveLength(1);

  const docker = `docker-archive:${directory.join("d.tar")}`;
  execFileSync("skopeo", ["--insecure-policy", "copy", `oci:${layout}:v1`, `${docker}:x:y`], {
    stdio: "pipe",
  });
  const fromDocker = await openImage(docker, options(directory));
  expect(readFileSync(`${fromDocker.rootfs}/second`, "utf8")).toBe("layer");
  expect(fromDocker.config).toEqual(image.config);
  expect(left(directory)).toEqual([]);
});

test("many at once share what one has unpacked", async () => {
  await using directory = createTempDir();
  const layout = makeLayout(directory);
  const images = await Promise.all(
    Array.from({ length: 4 }, () => openImage(`oci:${layout}:v1`, options(directory))),
  );
  expect(new Set(images.map((image: Image) => image.rootfs)).size).toBe(1);
  expect(readdirSync(directory.join("images"))).toHaveLength(1);
});

test("failures name the image and leave nothing", async () => {
  await using directory = createTempDir();
  const layout = makeLayout(directory);
  const fails = async (name: string, message: string) => {
    await expect(openImage(name, options(directory))).rejects.toThrow(message);
  };
  await fails(
    `oci:${layout}:v2`,
    `Cannot use image "oci:${layout}:v2": no image is tagged "v2", the tags are "v1"`,
  );
  await fails(`oci:${directory.path}`, `Cannot use image "oci:${directory.path}"`);
  writeFileSync(directory.join("bad.tar"), "not a tar");
  await fails(
    `oci-archive:${directory.join("bad.tar")}`,
    `Cannot fetch image "oci-archive:${directory.join("bad.tar")}": `,
  );
  await fails(`docker-archive:${directory.join("nope.tar")}`, "no such file or directory");
  expect(left(directory)).toEqual([]);

  // A layer that is not what its digest says.
  const [blob = ""] = readdirSync(`${layout}/blobs/sha256`)
    .map((name) => `${layout}/blobs/sha256/${name}`)
    .sort((one, other) => statSync(other).size - statSync(one).size);
  writeFileSync(blob, "x".repeat(statSync(blob).size));
  await fails(`oci:${layout}:v1`, `Cannot fetch image "oci:${layout}:v1": `);
  expect(readdirSync(directory.join("images"))).toEqual([]);
});

test("an abort ends it, and what a killed process left is removed next time", async () => {
  await using directory = createTempDir();
  const layout = makeLayout(directory);
  const controller = new AbortController();
  const reason = new Error("enough");
  const report = () => controller.abort(reason);
  await expect(
    openImage(`oci:${layout}:v1`, options(directory, { signal: controller.signal, report })),
  ).rejects.toBe(reason);
  expect(readdirSync(directory.join("images"))).toEqual([]);

  mkdirSync(directory.join("images/.tmp-999999999-1-00000000/rootfs"), { recursive: true });
  await openImage(`oci:${layout}:v1`, options(directory));
  expect(left(directory)).toEqual([]);
});

test("a directory is used as it is", async () => {
  await using directory = createTempDir();
  expect(await openImage(`rootfs:${directory.path}`, options(directory))).toMatchObject({
    kind: "direct",
    rootfs: directory.path,
  });
  writeFileSync(directory.join("file"), "");
  await expect(openImage(`rootfs:${directory.join("file")}`, options(directory))).rejects.toThrow(
    "it is not a directory",
  );
});

test("removing a tree never goes through a mount", async () => {
  await using directory = createTempDir();
  mkdirSync(directory.join("precious"));
  mkdirSync(directory.join("tree/a b/mounted"), { recursive: true });
  writeFileSync(directory.join("precious/file"), "");
  // Stacked, because then one unmount is not enough.
  for (let count = 0; count < 2; count++) {
    execFileSync("mount", ["--bind", directory.join("precious"), directory.join("tree/a b/mounted")]);
  }
  await removeTree(directory.join("tree"));
  expect(readdirSync(directory.join("precious"))).toEqual(["file"]);
  expect(readdirSync(directory.path)).toEqual(["precious"]);
  await removeTree(directory.join("tree"));
});
