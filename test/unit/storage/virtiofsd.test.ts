import { expect, test } from "vitest";
import { planVirtiofsd } from "../../../src/storage/virtiofsd.ts";

test("planVirtiofsd() is the whole argv, confined and on the socket that it inherits", () => {
  const argv = planVirtiofsd({
    program: "/usr/libexec/virtiofsd",
    sharedDirectory: "/run/caisson/default/s1/shared",
    directory: "/run/caisson/default/s1/vm",
    socketPath: "/proc/self/fd/20/virtiofs.sock",
    user: { uid: 700_001, gid: 700_001 },
  });

  expect(argv).toEqual([
    "/usr/libexec/virtiofsd",
    "--fd=3",
    "--shared-dir=/run/caisson/default/s1/shared",
    "--sandbox=namespace",
    "--seccomp=kill",
    "--announce-submounts",
    "--cache=auto",
    "--rlimit-nofile=0",
    "--log-level=warn",
  ]);
});
