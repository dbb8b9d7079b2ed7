import { execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { readFileInRootfs } from "../../../src/image/rootfs-file.ts";
import { resolveUser } from "../../../src/image/users.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

function makeRootfs(passwd: string | undefined, group?: string): TempDir {
  const directory = createTempDir();
  mkdirSync(directory.join("rootfs/etc"), { recursive: true });
  if (passwd !== undefined) writeFileSync(directory.join("rootfs/etc/passwd"), passwd);
  if (group !== undefined) writeFileSync(directory.join("rootfs/etc/group"), group);
  return directory;
}

const passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
const group = "root:x:0:\nstaff:x:50:web,other\nadm:x:4:web\nwww:x:34:web\n";

test("names, numbers and groups", async () => {
  await using directory = makeRootfs(passwd, group);
  const table = {
    "": { uid: 0, gid: 0, additionalGids: [] },
    root: { uid: 0, gid: 0, additionalGids: [] },
    web: { uid: 33, gid: 34, additionalGids: [50, 4] },
    "33": { uid: 33, gid: 34, additionalGids: [50, 4] },
    "web:staff": { uid: 33, gid: 50, additionalGids: [] },
    "web:7": { uid: 33, gid: 7, additionalGids: [] },
    ":staff": { uid: 0, gid: 50, additionalGids: [] },
    "1234": { uid: 1234, gid: 0, additionalGids: [] },
    "1234:5678": { uid: 1234, gid: 5678, additionalGids: [] },
    "2147483647": { uid: 2_147_483_647, gid: 0, additionalGids: [] },
  };
  for (const [text, user] of Object.entries(table)) {
    expect(await resolveUser(directory.join("rootfs"), text), text).toEqual(user);
  }
});

test("an image without the files", async () => {
  await using directory = makeRootfs(undefined);
  const rootfs = directory.join("rootfs");
  expect(await resolveUser(rootfs, "")).toEqual({ uid: 0, gid: 0, additionalGids: [] });
  expect(await resolveUser(rootfs, "5:6")).toEqual({ uid: 5, gid: 6, additionalGids: [] });
  await expect(resolveUser(rootfs, "web")).rejects.toThrow(
    'Cannot use user "web": the image\'s /etc/passwd has no user "web"',
  );
});

describe("hostile", () => {
  test("arguments", async () => {
    // A user whose name is a number must not turn it into another one.
    await using directory = makeRootfs(`${passwd}4294967296:x:0:0:::\n-1:x:0:0:::\n`, group);
    for (const text of [
      "-1",
      "+1",
      "2147483648",
      "4294967295",
      "4294967296",
      "1:-1",
      "1:4294967296",
      "1:",
      "a:b:c",
      "web:nope",
      "x\0y",
    ]) {
      await expect(resolveUser(directory.join("rootfs"), text), text).rejects.toMatchObject({
        code: "invalid_argument",
      });
    }
  });

  test("lines", async () => {
    const lines = [
      "evil",
      "evil:x",
      "evil:x:-1:0",
      "evil:x:4294967295:0",
      "evil:x:99999999999:0",
      "evil:x:1e3:0",
      "evil:x:0x1:0",
    ];
    await using directory = makeRootfs(
      [...lines, ":x:1:1", "evil:x:7:8", "evil:x:0:0"].join("\n"),
      "g:x:-1:evil\ng:x:9:evil",
    );
    expect(await resolveUser(directory.join("rootfs"), "evil")).toEqual({
      uid: 7,
      gid: 8,
      additionalGids: [9],
    });
  });

  test("too many groups, too large a file", async () => {
    const groups = Array.from({ length: 2000 }, (_, index) => `g${index}:x:${index + 100}:web`).join("\n");
    await using directory = makeRootfs(passwd, groups);
    await expect(resolveUser(directory.join("rootfs"), "web")).rejects.toThrow(
      "it is in 2000 groups, at most 1024",
    );
    truncateSync(directory.join("rootfs/etc/passwd"), 100 * 1024 * 1024);
    await expect(resolveUser(directory.join("rootfs"), "web")).rejects.toThrow(
      "has 104857600 bytes, at most 1048576",
    );
  });
});

describe("links never lead out of the root file system", () => {
  test("they are followed inside", async () => {
    await using directory = makeRootfs(undefined);
    const rootfs = directory.join("rootfs");
    writeFileSync(directory.join("passwd"), "outside:x:1:1:::\n");
    mkdirSync(directory.join("rootfs/real/deep"), { recursive: true });
    writeFileSync(directory.join("rootfs/real/passwd"), "inside:x:2:2:::\n");
    writeFileSync(directory.join("rootfs/passwd"), "top:x:3:3:::\n");
    const targets: Record<string, string> = {
      "/real/passwd": "inside",
      "../real/passwd": "inside",
      "../../../../real/deep/../passwd": "inside",
      // As if the root file system were "/": at the top, ".." goes nowhere.
      "../../passwd": "top",
      "/../../../passwd": "top",
    };
    for (const [target, name] of Object.entries(targets)) {
      execFileSync("ln", ["-sfn", target, directory.join("rootfs/etc/passwd")]);
      expect(String(await readFileInRootfs(rootfs, "/etc/passwd", 1000)), target).toMatch(name);
    }
  });

  test("nor do links of directories, loops, FIFOs or devices do harm", async () => {
    await using directory = makeRootfs(undefined);
    const rootfs = directory.join("rootfs");
    const read = (path: string) => readFileInRootfs(rootfs, path, 1000);
    symlinkSync("/etc", directory.join("rootfs/host-etc"));
    expect(await read("/host-etc/hostname")).toBeUndefined();
    symlinkSync("loop", directory.join("rootfs/loop"));
    await expect(read("/loop")).rejects.toThrow("more than 40 symbolic links");
    execFileSync("mkfifo", [directory.join("rootfs/fifo")]);
    await expect(read("/fifo")).rejects.toThrow("it is not a regular file");
    await expect(read("/etc")).rejects.toThrow("it is not a regular file");
    writeFileSync(directory.join("rootfs/file"), "x");
    expect(await read("/file/below")).toBeUndefined();
    symlinkSync(`/proc/self/fd/0`, directory.join("rootfs/magic"));
    expect(await read("/magic")).toBeUndefined();
  });
});
