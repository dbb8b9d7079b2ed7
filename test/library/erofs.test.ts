import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createLibrary, type Library } from "../support/library.ts";

let library: Library;
beforeAll(async () => {
  library = await createLibrary();
  // The image is made once, and kept.
  await (await library.create({ storage: "erofs" })).close();
});
afterAll(() => library[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => library.leakScope());

/** The made image. */
function erofsPath(): string {
  const images = library.dir.join("data/images");
  const digest = readdirSync(images).find((name) => /^[0-9a-f]{64}$/.test(name)) ?? "";
  return join(images, digest, "rootfs.erofs");
}

test("an EROFS root is writable, its layer is the sandbox's own, and the image is not made again", async () => {
  const before = statSync(erofsPath());
  await using first = await library.create({ storage: "erofs" });
  await using second = await library.create({ storage: "erofs" });
  const script =
    "echo changed >/etc/passwd; rm /bin/ls; mkdir /new && stat -c '%a %u' / /new && chmod u+s /bin/busybox";

  expect(await first.run("sh", ["-c", script])).toMatchObject({ exitCode: 0, stdout: "755 0\n755 0\n" });
  expect(await first.readFile("/etc/passwd", { encoding: "utf8" })).toBe("changed\n");
  const { stdout } = await second.run("sh", ["-c", "cat /etc/passwd; ls /bin/ls; ls /"]);
  expect(stdout).toContain("root:");
  expect(stdout).toContain("/bin/ls");
  expect(stdout).not.toContain("new");
  expect(statSync(erofsPath())).toMatchObject({ ino: before.ino, mtimeMs: before.mtimeMs });
});

test("files and mounts work with an EROFS root", async () => {
  await using sandbox = await library.create({
    storage: "erofs",
    mounts: [{ source: library.dir.join("data"), target: "/data", readOnly: true }],
  });
  await sandbox.writeFile("/work/file", "content");

  expect((await sandbox.run("sh", ["-c", "cat /work/file; ls /data"])).stdout).toContain("content");
  await sandbox.copyOut("/work", library.dir.join("work"));
  expect(readdirSync(library.dir.join("work"))).toEqual(["file"]);
});
