import { expect, test } from "vitest";
import { planLaunch } from "../../../src/base/launch.ts";

test("planLaunch() for the VMM: a user, a device's group, a network namespace, no capabilities", () => {
  const argv = planLaunch(["/usr/bin/qemu", "-name", "s1"], {
    user: { uid: 700_001, gid: 700_001 },
    groups: [104, 105],
    capabilities: [],
    netnsPath: "/run/caisson/default/s1/netns",
  });

  expect(argv).toEqual([
    "nsenter",
    "--net=/run/caisson/default/s1/netns",
    "--",
    "setpriv",
    "--reuid=700001",
    "--regid=700001",
    "--groups=104,105",
    "--no-new-privs",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--pdeathsig=SIGKILL",
    "--",
    "/usr/bin/qemu",
    "-name",
    "s1",
  ]);
});

test("planLaunch() for virtiofsd: root with the named capabilities only", () => {
  expect(planLaunch(["--help"], { capabilities: ["chown", "sys_admin"] })).toEqual([
    "setpriv",
    "--clear-groups",
    "--no-new-privs",
    "--bounding-set=-all,+chown,+sys_admin",
    "--inh-caps=-all",
    "--pdeathsig=SIGKILL",
    "--",
    "--help",
  ]);
});
