import { expect, test } from "vitest";
import { isTapName, planTapUp, tapName } from "../../../src/network/tap.ts";
import { planNameAnswers, planRedirect, planRedirectRemoval } from "../../../src/network/tc.ts";

test("planRedirect() joins both ways and drops what does not come from the link's MAC address", () => {
  const redirect = { link: "eth0", tap: "tap0_caisson", macAddress: "02:00:00:00:00:10" };
  const plan = planRedirect(redirect, { makeQdisc: true });
  expect(planRedirect(redirect, { makeQdisc: false })).toEqual(plan.toSpliced(3, 1));
  expect(plan).toEqual([
    "qdisc replace dev tap0_caisson ingress",
    'filter replace dev tap0_caisson ingress protocol all pref 51734 handle 1 bpf bytecode "1,6 0 0 2" direct-action',
    "filter replace dev tap0_caisson ingress protocol all pref 51733 handle 800::1 u32 match ether src 02:00:00:00:00:10 action mirred egress redirect dev eth0",
    "qdisc replace dev eth0 ingress",
    'filter replace dev eth0 ingress protocol all pref 51733 handle 1 bpf bytecode "1,6 0 0 4294967295" action mirred egress redirect dev tap0_caisson',
  ]);
});

test("planRedirectRemoval() removes a qdisc of our kind when all in it is ours, else our filter only, else nothing", () => {
  const plan = planRedirectRemoval([
    { link: "ours", qdisc: "ingress", filterPrefs: [51_733, 51_733] },
    { link: "names", qdisc: "ingress", filterPrefs: [51_732, 51_733] },
    { link: "shared", qdisc: "ingress", filterPrefs: [100, 51_733] },
    { link: "theirs", qdisc: "clsact", filterPrefs: [51_732, 51_733] },
    { link: "foreign", qdisc: "ingress", filterPrefs: [100] },
    { link: "empty", qdisc: "ingress", filterPrefs: [] },
    { link: "none", qdisc: undefined, filterPrefs: [] },
  ]);
  expect(plan).toEqual([
    "qdisc delete dev ours ingress",
    "qdisc delete dev names ingress",
    "filter delete dev shared ingress pref 51733",
    "filter delete dev theirs ingress pref 51732",
    "filter delete dev theirs ingress pref 51733",
  ]);
});

test("planNameAnswers() lets ARP and UDP from port 53 pass, and the tap gets a copy", () => {
  const [command, ...others] = planNameAnswers("eth0", "tap0_caisson");
  expect(others).toEqual([]);
  expect(command).toMatch(
    /^filter replace dev eth0 ingress protocol all pref 51732 handle 1 bpf bytecode "12,/,
  );
  expect(command).toMatch(/" action mirred egress mirror dev tap0_caisson$/);
});

test("tapName() fits into an interface name and is recognised", () => {
  for (const index of [0, 9, 9999]) {
    expect(tapName(index).length).toBeLessThanOrEqual(15);
    expect(isTapName(tapName(index))).toBe(true);
  }
  for (const name of ["tap0", "tap_caisson", "xtap0_caisson", "tap0_caisson2"])
    expect(isTapName(name)).toBe(false);
});

test("planTapUp() leaves IPv6 out on a host without it", () => {
  expect(planTapUp("t", 1400, { ipv6: true })).toEqual([
    "link set dev t addrgenmode none",
    "link set dev t mtu 1400 up",
  ]);
  expect(planTapUp("t", 1400, { ipv6: false })).toEqual(["link set dev t mtu 1400 up"]);
});
