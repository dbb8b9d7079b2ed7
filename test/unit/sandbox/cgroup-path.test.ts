import { expect, test } from "vitest";
import { placeOfCgroup } from "../../../src/sandbox/cgroup-path.ts";

test.each([
  ["/kubepods/burstable/pod1/c1", "/kubepods/burstable/pod1/c1"],
  ["default/c1", "/default/c1"],
  ["//default/./c1", "/default/c1"],
  ["/a:b:c/d", "/a:b:c/d"],
  [
    "kubepods-burstable-pod1_2.slice:cri-containerd:c1",
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-c1.scope",
  ],
  ["user.slice:libpod:c1", "/user.slice/libpod-c1.scope"],
  [":docker:c1", "/system.slice/docker-c1.scope"],
  ["-.slice:x:c1", "/x-c1.scope"],
  ["a.slice::c1", "/a.slice/c1.scope"],
])("the place of %j is %j", (text, place) => {
  expect(placeOfCgroup(text)).toBe(place);
});

test.each([
  "/",
  ".",
  "/../a",
  "/a/../../b",
  "/a/..",
  "/a/",
  "/a\0",
  `/${"x".repeat(2_048)}`,
  "a:x:c1",
  "a--b.slice:x:c1",
  "-a.slice:x:c1",
  ".slice:x:c1",
  "a/b.slice:x:c1",
  "a.slice:x:",
  "a.slice:x:../../c1",
  "a.slice:x/y:c1",
])("the path %j is refused", (text) => {
  expect(() => placeOfCgroup(text)).toThrow(expect.objectContaining({ code: "invalid_argument" }));
});
