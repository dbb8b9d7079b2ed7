import { closeSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadNative } from "../../../src/base/native.ts";
import { makeNetns } from "./pod.ts";

test("makeFifo() makes a FIFO; its errors have the errno's name and name the call", () => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-fifo-"));
  const path = join(directory, "fifo");
  loadNative().makeFifo(path, 0o600);
  expect(statSync(path).isFIFO()).toBe(true);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(() => loadNative().makeFifo(path, 0o600)).toThrow(
    expect.objectContaining({ code: "EEXIST", message: expect.stringContaining(`mkfifo "${path}"`) }),
  );
  rmSync(directory, { recursive: true });
});

test("openTap() fails with the errno of the call that failed, keeps no descriptor and leaves our namespace alone", () => {
  using netns = makeNetns();
  const fds = readdirSync("/proc/self/fd").length;
  const links = readdirSync("/sys/class/net");
  const failures: [string, string, string][] = [
    ["/nonexistent", "tap0", 'ENOENT: No such file or directory, open "/nonexistent"'],
    ["/proc/self/ns/mnt", "tap0", 'EINVAL: Invalid argument, setns "/proc/self/ns/mnt"'],
    [netns.path, "lo", 'EINVAL: Invalid argument, ioctl TUNSETIFF "lo"'],
    [netns.path, "sixteen-bytes-xx", 'EINVAL: Invalid argument, interface name "sixteen-bytes-xx"'],
    [netns.path, "", 'EINVAL: Invalid argument, interface name ""'],
  ];
  for (const [netnsPath, name, message] of failures) {
    const code = message.split(":")[0];
    expect(() => loadNative().openTap({ netnsPath, name, stays: false })).toThrow(
      expect.objectContaining({ code, message }),
    );
  }
  expect(readdirSync("/proc/self/fd")).toHaveLength(fds);
  expect(readdirSync("/sys/class/net")).toEqual(links);
});

test.each([true, false])("openTap(): whether it stays (%s) when nobody has it open", (stays) => {
  using netns = makeNetns();
  const links = () => netns.run("ip -brief link").includes("tap0_caisson");
  const tap = loadNative().openTap({ netnsPath: netns.path, name: "tap0_caisson", stays });
  expect(links()).toBe(true);
  closeSync(tap);
  expect(links()).toBe(stays);
});
