import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { attachNetwork, type SandboxNetwork } from "../../../src/network/network.ts";
import {
  arpRequest,
  ethernet,
  isArpReply,
  mac,
  makePod,
  peerMac,
  podMac,
  readFramesUntil,
  sendFrame,
  signal,
} from "./pod.ts";

const foreignMac = "02:00:00:00:00:99";
const marker = (from: string) => ethernet({ from, payload: randomBytes(64) });

function tapOf(attached: SandboxNetwork): number {
  const [nic] = attached.nics;
  if (nic === undefined) throw new Error("no NIC");
  return nic.tapFd;
}

test("the guest's frames reach the peer's kernel and its answers come back", async () => {
  using net = makePod();
  await using attached = await attachNetwork({ netnsPath: net.pod.path, signal });
  sendFrame(tapOf(attached), arpRequest({ from: podMac, sender: "10.1.0.5", target: "10.1.0.1" }));
  await readFramesUntil(tapOf(attached), (frame) => isArpReply(frame, peerMac));
});

test("frames of every kind pass unchanged, both ways", async () => {
  using net = makePod();
  await using guest = await attachNetwork({ netnsPath: net.pod.path, signal });
  await using other = await attachNetwork({ netnsPath: net.peer.path, signal });
  const pair = [
    { from: podMac, to: peerMac, out: tapOf(guest), into: tapOf(other) },
    { from: peerMac, to: podMac, out: tapOf(other), into: tapOf(guest) },
  ];
  for (const { from, to, out, into } of pair) {
    const frames = [
      ethernet({ from, to, payload: randomBytes(1400) }), // a full one
      ethernet({ from, to, payload: randomBytes(1) }), // shorter than what filters look at in payloads
      ethernet({ from, payload: randomBytes(100) }), // broadcast
      ethernet({ from, to: "01:00:5e:00:00:fb", type: "0800", payload: randomBytes(60) }), // multicast, broken IPv4
      ethernet({
        from,
        to,
        type: "8100",
        payload: Buffer.concat([Buffer.from("006488b5", "hex"), randomBytes(60)]),
      }), // VLAN 100
      ethernet({ from, to: foreignMac, payload: randomBytes(60) }), // to a MAC address that nobody has
    ];
    for (const frame of frames) {
      sendFrame(out, frame);
      await readFramesUntil(into, (arrived) => arrived.equals(frame));
    }
  }
});

test("frames with a foreign source MAC are dropped: the peer does not see them and the host does not answer", async () => {
  using net = makePod();
  // With the reverse path filter the host's kernel would keep quiet by itself.
  net.pod.run("for f in all default; do echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; done");
  await using guest = await attachNetwork({ netnsPath: net.pod.path, signal });
  await using other = await attachNetwork({ netnsPath: net.peer.path, signal });
  const almost = (octet: number) => podMac.split(":").with(octet, "7f").join(":");
  const forged = [
    ...[0, 1, 2, 3, 4, 5].map((octet) => ethernet({ from: almost(octet), payload: randomBytes(60) })),
    ethernet({ from: peerMac, payload: randomBytes(60) }),
    ethernet({ from: "00:00:00:00:00:00", payload: randomBytes(60) }),
    ethernet({ from: "ff:ff:ff:ff:ff:ff", payload: randomBytes(60) }),
    ethernet({ from: foreignMac, payload: randomBytes(1) }),
    ethernet({
      from: foreignMac,
      type: "8100",
      payload: Buffer.concat([Buffer.from("006488b5", "hex"), randomBytes(60)]),
    }),
    // The link keeps its address in the namespace, so that the host's kernel would answer this one.
    arpRequest({ from: foreignMac, sender: "10.1.0.77", target: "10.1.0.5" }),
  ];
  for (const frame of forged) sendFrame(tapOf(guest), frame);
  const good = marker(podMac);
  sendFrame(tapOf(guest), good);

  // Frames keep their order: whatever passed would have come before the good one.
  const seen = await readFramesUntil(tapOf(other), (frame) => frame.equals(good));
  const hex = new Set(seen.map((frame) => frame.toString("hex")));
  for (const frame of forged) expect(hex).not.toContain(frame.toString("hex"));

  const back = marker(peerMac);
  sendFrame(tapOf(other), back);
  const answers = await readFramesUntil(tapOf(guest), (frame) => frame.equals(back));
  // Nothing but the peer's frames: what the host's kernel answers, it sends with the tap's own MAC address.
  expect(answers.filter((frame) => !frame.subarray(6, 12).equals(mac(peerMac)))).toEqual([]);
});

test("frames flow again when the namespace was left by a crash and is attached anew", async () => {
  using net = makePod();
  const crashed = await attachNetwork({ netnsPath: net.pod.path, signal });
  await crashed.closeTaps();
  await using attached = await attachNetwork({ netnsPath: net.pod.path, signal });
  sendFrame(tapOf(attached), arpRequest({ from: podMac, sender: "10.1.0.5", target: "10.1.0.1" }));
  await readFramesUntil(tapOf(attached), (frame) => isArpReply(frame, peerMac));
});

test("after detaching the namespace's own network works as before", async () => {
  using net = makePod();
  const attached = await attachNetwork({ netnsPath: net.pod.path, signal });
  await attached[Symbol.asyncDispose]();
  net.pod.run("ip neighbour delete 10.1.0.1 dev eth0; bash -c 'echo > /dev/udp/10.1.0.1/9'; sleep 0.1");
  expect(net.pod.run("ip neighbour show 10.1.0.1")).toContain(peerMac);
});
