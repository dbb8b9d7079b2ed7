import { expect, test } from "vitest";
import { splitOptions } from "../../../src/storage/mount-options.ts";

test("splitOptions(): flags of mount(2), the last word counts, and what the file system reads stays in its order", () => {
  expect(splitOptions([])).toEqual({ flags: 0, data: "" });
  expect(splitOptions(["ro", "lowerdir=/a:/b", "nosuid", "index=off", "x-systemd.automount"])).toEqual({
    flags: 1 | 2,
    data: "lowerdir=/a:/b,index=off",
  });
  expect(splitOptions(["ro", "defaults", "noexec", "rw", "exec", "nodev", "relatime"])).toEqual({
    flags: 4 | (1 << 21),
    data: "",
  });
});
