import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { describeNetwork } from "../../../src/network/endpoint.ts";
import { type IpLink, type IpScan, parseJsonLines } from "../../../src/network/ip.ts";

// Recorded with iproute2 6.1: `address show`, `route show table all`, `neighbour show nud permanent`.
const recorded = readFileSync(join(import.meta.dirname, "recorded-scan.jsonl"), "utf8");
const [links, routes, neighbours] = parseJsonLines(recorded, 3);
const scan = { links, routes, neighbours } as unknown as IpScan;

function linkNamed(name: string, overrides: Partial<IpLink> = {}): IpLink {
  return {
    ifname: name,
    flags: ["UP"],
    mtu: 1500,
    link_type: "ether",
    address: "02:00:00:00:00:01",
    addr_info: [],
    ...overrides,
  };
}

describe("describeNetwork()", () => {
  test("keeps links that are up and leaves out loopback, bridge ports and our taps", () => {
    const names = describeNetwork(scan).interfaces.map(({ name }) => name);
    expect(names.toSorted()).toEqual(["eth0", "eth1", "p0"]);
  });

  test("keeps IPv4 and IPv6 addresses and leaves out link-local IPv6", () => {
    const { interfaces } = describeNetwork(scan);
    expect(interfaces.find(({ name }) => name === "eth0")).toEqual({
      macAddress: "02:00:00:00:00:10",
      name: "eth0",
      mtu: 1400,
      addresses: ["10.1.0.5/24", "10.3.0.1/32", "fd00::5/64"],
    });
    expect(interfaces.find(({ name }) => name === "eth1")?.addresses).toEqual([
      "169.254.7.7/16",
      "10.4.0.1/24",
    ]);
  });

  test("keeps unicast routes of the main table, those that a gateway needs before it", () => {
    const shown = describeNetwork(scan).routes.map(
      ({ destination, gateway, interfaceName, onLink, scope, metric, source, family }) =>
        [family, destination, gateway, interfaceName, scope, metric, source, onLink ? "onlink" : ""]
          .join(" ")
          .trim(),
    );
    expect(shown).toEqual([
      "inet6 fd01::/64  eth0  1024",
      "inet 10.3.0.2/32  eth0 link 0 10.3.0.1",
      "inet 169.254.1.1/32  eth0 link 0",
      "inet 10.9.0.0/16 169.254.1.1 eth0 global 50 10.1.0.5 onlink",
      "inet 10.10.0.0/16 10.1.0.1 eth0 global 0",
      "inet 10.12.0.0/16 fd00::1 eth0 global 0",
      "inet default 10.1.0.1 eth0 global 0",
      "inet6 default fd00::1 eth0  1024",
    ]);
  });

  test("keeps permanent neighbours", () => {
    const macAddress = "02:00:00:00:00:01";
    expect(describeNetwork(scan).neighbours).toEqual(
      expect.arrayContaining([
        { address: "10.1.0.1", macAddress, interfaceName: "eth0" },
        { address: "fd00::1", macAddress, interfaceName: "eth0" },
      ]),
    );
    expect(describeNetwork(scan).neighbours).toHaveLength(2);
  });

  test("keeps a connected route that the guest's kernel would not make", () => {
    const link = linkNamed("eth0", {
      addr_info: [
        { family: "inet", local: "10.0.0.5", prefixlen: 24, scope: "global", noprefixroute: true },
        { family: "inet", local: "10.9.0.5", prefixlen: 24, scope: "global" },
      ],
    });
    const connected = (dst: string) => ({
      type: "unicast",
      dst,
      dev: "eth0",
      protocol: "kernel",
      scope: "link",
    });
    const network = describeNetwork({
      links: [link],
      routes: [connected("10.0.0.0/24"), connected("10.9.0.0/24")],
      neighbours: [],
    });
    expect(network.routes.map(({ destination }) => destination)).toEqual(["10.0.0.0/24"]);
  });

  test("has nothing for a namespace with loopback only", () => {
    const lo = linkNamed("lo", { link_type: "loopback" });
    expect(describeNetwork({ links: [lo], routes: [], neighbours: [] })).toEqual({
      interfaces: [],
      routes: [],
      neighbours: [],
    });
  });

  test("leaves out links that are down and addresses that another host holds", () => {
    const taken = { family: "inet6", local: "fd00::1", prefixlen: 64, scope: "global", dadfailed: true };
    const network = describeNetwork({
      links: [linkNamed("gretap0", { flags: [] }), linkNamed("eth0", { addr_info: [taken] })],
      routes: [],
      neighbours: [],
    });
    expect(network.interfaces).toEqual([expect.objectContaining({ name: "eth0", addresses: [] })]);
  });

  test("caps the MTU at what a tap takes", () => {
    const network = describeNetwork({
      links: [linkNamed("eth0", { mtu: 65_535 })],
      routes: [],
      neighbours: [],
    });
    expect(network.interfaces[0]?.mtu).toBe(65_521);
  });

  test("refuses two links with one MAC address, by name", () => {
    const two = { links: [linkNamed("eth0"), linkNamed("eth1")], routes: [], neighbours: [] };
    expect(() => describeNetwork(two)).toThrow(
      expect.objectContaining({
        code: "unimplemented",
        message: expect.stringContaining('"eth0" and "eth1"'),
      }),
    );
  });

  test("refuses a name that would end its word in a batch file", () => {
    const odd = { links: [linkNamed('a"#b')], routes: [], neighbours: [] };
    expect(() => describeNetwork(odd)).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });
});

test("parseJsonLines() refuses output with a line missing", () => {
  expect(() => parseJsonLines("[]\n", 2)).toThrow(expect.objectContaining({ code: "internal" }));
});
