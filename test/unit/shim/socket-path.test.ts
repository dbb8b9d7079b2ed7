import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { socketPath } from "../../../src/shim/socket-path.ts";

const common = {
  address: "/run/containerd/containerd.sock",
  namespace: "ns",
  sandboxId: "c1",
  stateDirectory: "/run/caisson",
};
const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

test("socketPath() is containerd's convention", () => {
  const name = sha256("/run/containerd/containerd.sock/ns/c1");

  expect(socketPath(common)).toBe(`/run/containerd/s/${name}`);
  expect(socketPath({ ...common, socketDirectory: "/run/user/0/s" })).toBe(`/run/user/0/s/${name}`);
});

test("socketPath() without containerd lies in the state directory", () => {
  expect(socketPath({ ...common, address: "" })).toBe(`/run/caisson/.shims/${sha256("ns/c1")}`);
});

test("socketPath() refuses what bind(2) cannot take", () => {
  const longest = `/${"d".repeat(40)}`;

  expect(socketPath({ ...common, socketDirectory: longest })).toHaveLength(106);
  expect(() => socketPath({ ...common, socketDirectory: `${longest}d` })).toThrowError(/at most 106/);
});
