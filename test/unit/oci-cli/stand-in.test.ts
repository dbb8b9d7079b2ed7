import { expect, test } from "vitest";
import { viewOf } from "../../../src/oci-cli/stand-in.ts";

test("viewOf() shows root and binds as the container has them, and hides what only the guest has", () => {
  const bundle = {
    path: "/b",
    rootfs: "/layers/merged",
    spec: {
      ociVersion: "1.0.2",
      root: { path: "/layers/merged", readonly: true },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs" },
        { destination: "/data", type: "bind", source: "data", options: ["rbind", "ro"] },
        { destination: "/etc/hosts", source: "/run/hosts", options: ["bind"] },
      ],
    },
  };

  expect(viewOf(bundle, "/run/netns/n")).toEqual({
    netnsPath: "/run/netns/n",
    mounts: [
      { destination: "/", source: "/layers/merged", mode: "ro" },
      { destination: "/proc", source: "", mode: "proc" },
      { destination: "/dev", source: "", mode: "hidden" },
      { destination: "/data", source: "/b/data", mode: "ro" },
      { destination: "/etc/hosts", source: "/run/hosts", mode: "rw" },
    ],
  });
});
