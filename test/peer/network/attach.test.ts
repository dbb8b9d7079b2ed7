import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { attachNetwork, detachNetwork } from "../../../src/network/network.ts";
import {
  arpRequest,
  isArpReply,
  makeNetns,
  makePod,
  peerMac,
  picture,
  podMac,
  readFramesUntil,
  sendFrame,
  signal,
} from "./pod.ts";

const openFds = () => readdirSync("/proc/self/fd").length;

test("attachNetwork() describes the links and gives each a tap of the same MTU", async () => {
  using net = makePod();
  net.pod.run("ip link add eth1 address 02:00:00:00:00:11 type veth peer name peer1; ip link set eth1 up");
  await using attached = await attachNetwork({ netnsPath: net.pod.path, signal });

  expect(attached.nics).toEqual([
    { id: "net0", macAddress: expect.any(String), tapFd: expect.any(Number) },
    { id: "net1", macAddress: expect.any(String), tapFd: expect.any(Number) },
  ]);
  expect(attached.nics.map(({ macAddress }) => macAddress)).toEqual(
    attached.guest.interfaces.map(({ macAddress }) => macAddress),
  );
  expect(attached.guest.interfaces).toContainEqual({
    name: "eth0",
    macAddress: podMac,
    mtu: 1400,
    addresses: ["10.1.0.5/24", "fd00::5/64"],
  });
  expect(
    attached.guest.routes.map(({ destination, gateway, onLink }) => [destination, gateway, onLink]),
  ).toEqual([
    ["169.254.1.1/32", "", false],
    ["10.9.0.0/16", "169.254.1.1", true],
    ["default", "10.1.0.1", false],
    ["default", "fd00::1", false],
  ]);
  expect(attached.guest.neighbours).toHaveLength(1);
  const index = attached.guest.interfaces.findIndex(({ name }) => name === "eth0");
  const tap = net.pod.run(`ip -details address show tap${index}_caisson`);
  expect(tap).toContain("mtu 1400");
  expect(tap).toContain("vnet_hdr on persist off");
  expect(tap).not.toContain("inet6"); // the host's kernel does not talk to the guest
});

test("disposing leaves the namespace and our descriptors as they were, also when done twice", async () => {
  using net = makePod();
  await (await attachNetwork({ netnsPath: net.pod.path, signal }))[Symbol.asyncDispose](); // loads everything
  const before = [picture(net.pod), openFds()];
  const attached = await attachNetwork({ netnsPath: net.pod.path, signal });
  expect(picture(net.pod)).not.toBe(before[0]);
  await attached[Symbol.asyncDispose]();
  expect([picture(net.pod), openFds()]).toEqual(before);
  await attached[Symbol.asyncDispose]();
  await detachNetwork({ netnsPath: net.pod.path });
});

test("a namespace without links gives no NICs and stays as it was", async () => {
  using netns = makeNetns();
  const before = picture(netns);
  await using attached = await attachNetwork({ netnsPath: netns.path, signal });
  expect(attached.nics).toEqual([]);
  expect(attached.guest).toEqual({ interfaces: [], routes: [], neighbours: [] });
  expect(picture(netns)).toBe(before);
});

test("a tap lives as long as the process that has its descriptor, and no longer", async () => {
  using net = makePod();
  const attached = await attachNetwork({ netnsPath: net.pod.path, signal });
  // A child that gets the descriptor stands for the VMM.
  const seen = execFileSync("cat", ["/proc/self/fdinfo/3"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit", attached.nics[0]?.tapFd ?? 0],
  });
  expect(seen).toContain("iff:\ttap0_caisson");
  await attached.closeTaps();
  await attached.closeTaps();
  expect(net.pod.run("ip link show")).not.toContain("_caisson");
  await attached[Symbol.asyncDispose]();
});

test("detachNetwork() removes from the path alone what a crash left, and the same namespace works again", async () => {
  using net = makePod();
  const before = picture(net.pod);
  const crashed = await attachNetwork({ netnsPath: net.pod.path, signal });
  await crashed.closeTaps(); // what the kernel does when we die
  net.pod.run("ip tuntap add dev tap7_caisson mode tap"); // one that stays by itself
  expect(net.pod.run("tc filter show dev eth0 ingress")).toContain("51733");

  await detachNetwork({ netnsPath: net.pod.path });
  expect(picture(net.pod)).toBe(before);

  await using again = await attachNetwork({ netnsPath: net.pod.path, signal });
  expect(again.nics).toHaveLength(1);
});

test("a namespace that is gone is no error on the way out", async () => {
  using net = makePod();
  const attached = await attachNetwork({ netnsPath: net.pod.path, signal });
  net.pod.remove();
  await attached[Symbol.asyncDispose]();
  await detachNetwork({ netnsPath: net.pod.path });
});

test.each([
  ["ingress with a filter", "tc qdisc add dev eth0 ingress; tc filter add dev eth0 ingress pref 10 @"],
  ["clsact with a filter", "tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress pref 10 @"],
  ["clsact with a filter on egress", "tc qdisc add dev eth0 clsact; tc filter add dev eth0 egress pref 10 @"],
])("a qdisc of somebody else, %s, is used and survives", async (_, command) => {
  using net = makePod();
  net.pod.run(command.replace("@", "protocol 0x88b6 u32 match u32 0 0 at -4 classid 1:1"));
  const before = picture(net.pod);
  const attached = await attachNetwork({ netnsPath: net.pod.path, signal });
  const tapFd = attached.nics[0]?.tapFd ?? -1;
  sendFrame(tapFd, arpRequest({ from: podMac, sender: "10.1.0.5", target: "10.1.0.1" }));
  await readFramesUntil(tapFd, (frame) => isArpReply(frame, peerMac));
  await attached[Symbol.asyncDispose]();
  expect(picture(net.pod)).toBe(before);
});

test("a second sandbox in the namespace is refused and the first keeps its network", async () => {
  using net = makePod();
  await using first = await attachNetwork({ netnsPath: net.pod.path, signal });
  const before = picture(net.pod);
  await expect(attachNetwork({ netnsPath: net.pod.path, signal })).rejects.toMatchObject({
    code: "already_exists",
  });
  expect(picture(net.pod)).toBe(before);
  expect(first.nics).toHaveLength(1);
});

test("when it fails half-way nothing is left", async () => {
  using net = makePod();
  // A persistent tap in the place of the second one.
  net.pod.run(
    "ip link add eth1 address 02:00:00:00:00:11 type veth peer name peer1; ip link set eth1 up; ip link add tap1_caisson type bridge",
  );
  const before = [picture(net.pod), openFds()];
  await expect(attachNetwork({ netnsPath: net.pod.path, signal })).rejects.toMatchObject({
    message: expect.stringContaining('"tap1_caisson"'),
  });
  expect([picture(net.pod), openFds()]).toEqual(before);
});

test("an aborted attach throws the reason and leaves nothing", async () => {
  using net = makePod();
  const before = picture(net.pod);
  for (let delayMs = 0; delayMs < 60; delayMs += 2) {
    const controller = new AbortController();
    const reason = new Error("enough");
    setTimeout(() => controller.abort(reason), delayMs);
    const outcome = await attachNetwork({ netnsPath: net.pod.path, signal: controller.signal }).catch(
      (error: unknown) => error,
    );
    if (outcome instanceof Error) expect(outcome).toBe(reason);
    else await (outcome as AsyncDisposable)[Symbol.asyncDispose]();
    expect(picture(net.pod)).toBe(before);
  }
});

test("the host's own network is refused with the reason, and a path without a namespace too", async () => {
  await expect(attachNetwork({ netnsPath: "/proc/self/ns/net", signal })).rejects.toMatchObject({
    code: "failed_precondition",
    message: expect.stringContaining("hostNetwork"),
  });
  for (const netnsPath of ["/run/netns/caisson-none", "/etc/hostname"]) {
    await expect(attachNetwork({ netnsPath, signal })).rejects.toMatchObject({ code: "not_found" });
  }
});
