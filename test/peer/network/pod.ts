import { execFileSync } from "node:child_process";
import { readSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoOf } from "../../../src/base/errors.ts";

export const signal = new AbortController().signal;

/** A network namespace of the test's own, removed with everything in it when disposed. */
export interface TestNetns extends Disposable {
  readonly name: string;
  readonly path: string;
  /** Runs a shell command in it and returns its output. */
  run(command: string): string;
  remove(): void;
}

let made = 0;

export function makeNetns(): TestNetns {
  const name = `caisson-test-${process.pid}-${++made}`;
  execFileSync("ip", ["netns", "add", name]);
  const path = `/run/netns/${name}`;
  let removed = false;
  const remove = () => {
    if (!removed) execFileSync("ip", ["netns", "delete", name]);
    removed = true;
  };
  const run = (command: string) =>
    execFileSync("nsenter", [`--net=${path}`, "--", "sh", "-ec", command], { encoding: "utf8" });
  run("ip link set lo up");
  return { name, path, run, remove, [Symbol.dispose]: remove };
}

export const podMac = "02:00:00:00:00:10";
export const peerMac = "02:00:00:00:00:20";

/** A pod's namespace with `eth0`, and the namespace of its peer with the other end, `peer0`. */
export function makePod(): { pod: TestNetns; peer: TestNetns } & Disposable {
  const pod = makeNetns();
  const peer = makeNetns();
  pod.run(`ip link add eth0 address ${podMac} mtu 1400 type veth peer name peer0 address ${peerMac} mtu 1400 netns ${peer.name}
    ip link set eth0 up`);
  peer.run(
    "ip link set peer0 up; ip address add 10.1.0.1/24 dev peer0; ip address add fd00::1/64 dev peer0 nodad",
  );
  pod.run(`ip address add 10.1.0.5/24 dev eth0; ip address add fd00::5/64 dev eth0 nodad
    ip route add default via 10.1.0.1; ip -6 route add default via fd00::1
    ip route add 169.254.1.1 dev eth0 scope link
    ip route add 10.9.0.0/16 via 169.254.1.1 dev eth0 onlink
    ip neighbour add 10.1.0.1 lladdr ${peerMac} dev eth0 nud permanent`);
  return {
    pod,
    peer,
    [Symbol.dispose]() {
      pod.remove();
      peer.remove();
    },
  };
}

/** What a namespace's links, addresses and traffic control look like, without the counters that pass by themselves. */
export function picture(netns: TestNetns): string {
  const names = netns.run("ip -o link show").matchAll(/^\d+: ([^:@]+)/gm);
  const filters = [...names].map(
    ([, name]) => `tc filter show dev ${name} ingress; tc filter show dev ${name} egress`,
  );
  const shown = netns.run(["ip -details address show", "tc qdisc show", ...filters].join("\n"));
  return shown.replaceAll(/ *(?:valid_lft.*|tentative|state \w+)| +$/gm, "");
}

// struct virtio_net_hdr, which a tap with IFF_VNET_HDR has before each frame; zeroes: nothing offloaded.
const vnetHeader = Buffer.alloc(10);

export function sendFrame(tapFd: number, frame: Buffer): void {
  writeSync(tapFd, Buffer.concat([vnetHeader, frame]));
}

/** Reads frames until one passes `wanted`; returns all that came, that one last. Fails after `timeoutMs`. */
export async function readFramesUntil(
  tapFd: number,
  wanted: (frame: Buffer) => boolean,
  timeoutMs = 3000,
): Promise<Buffer[]> {
  const frames: Buffer[] = [];
  const buffer = Buffer.alloc(70_000);
  const end = performance.now() + timeoutMs;
  while (performance.now() < end) {
    try {
      const length = readSync(tapFd, buffer);
      const frame = Buffer.from(buffer.subarray(vnetHeader.length, length));
      frames.push(frame);
      if (wanted(frame)) return frames;
    } catch (error) {
      if (errnoOf(error) !== "EAGAIN") throw error;
      await sleep(2);
    }
  }
  throw new Error(
    `No such frame within ${timeoutMs} ms, ${frames.length} others: ${frames.map((f) => f.toString("hex").slice(0, 80)).join(" ")}`,
  );
}

export function mac(address: string): Buffer {
  return Buffer.from(address.replaceAll(":", ""), "hex");
}

const broadcast = "ff:ff:ff:ff:ff:ff";

/** An Ethernet frame; `type` as hex digits ("88b5" is one for experiments). */
export function ethernet(options: { from: string; to?: string; type?: string; payload: Buffer }): Buffer {
  const { from, to = broadcast, type = "88b5", payload } = options;
  return Buffer.concat([mac(to), mac(from), Buffer.from(type, "hex"), payload]);
}

/** "Who has `target`? Tell `sender`." */
export function arpRequest(options: { from: string; sender: string; target: string }): Buffer {
  const ip = (address: string) => Buffer.from(address.split(".").map(Number));
  const payload = Buffer.concat([
    Buffer.from("0001080006040001", "hex"),
    mac(options.from),
    ip(options.sender),
    mac("00:00:00:00:00:00"),
    ip(options.target),
  ]);
  return ethernet({ from: options.from, type: "0806", payload });
}

/** Whether it is an ARP reply from `from`. */
export function isArpReply(frame: Buffer, from: string): boolean {
  return (
    frame.subarray(12, 22).toString("hex") === "08060001080006040002" &&
    frame.subarray(6, 12).equals(mac(from))
  );
}
