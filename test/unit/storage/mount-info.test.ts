import { expect, test } from "vitest";
import { parseMountInfo } from "../../../src/storage/mount.ts";

test("parseMountInfo() reads lines with and without optional fields, and paths with escapes", () => {
  const text = [
    "22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw",
    "61 27 0:43 / /run/a\\040b\\011c\\012d\\134e ro,relatime shared:7 master:2 propagate_from:3 unbindable - tmpfs - rw",
    "99 27 254:0 /root/src /mnt/dash-- rw - fuse.x/y some-dev rw,user_id=0",
    "100 27 0:4 net:[4026532532] /run/netns\\040x//deleted rw - nsfs nsfs rw",
    "",
  ].join("\n");

  expect(parseMountInfo(text)).toEqual([
    { mountId: 22, mountPoint: "/proc", fileSystem: "proc" },
    { mountId: 61, mountPoint: "/run/a b\tc\nd\\e", fileSystem: "tmpfs" },
    { mountId: 99, mountPoint: "/mnt/dash--", fileSystem: "fuse.x/y" },
    { mountId: 100, mountPoint: "/run/netns x//deleted", fileSystem: "nsfs" },
  ]);
});

test("parseMountInfo() unescapes once", () => {
  const [entry] = parseMountInfo("1 2 0:1 / /a\\134040b rw - tmpfs none rw\n");

  expect(entry?.mountPoint).toBe("/a\\040b");
  expect(parseMountInfo("")).toEqual([]);
});
