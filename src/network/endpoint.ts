import { BlockList } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import type { IpAddress, IpLink, IpNexthop, IpRoute, IpScan } from "./ip.ts";
import { isTapName, maxTapMtu } from "./tap.ts";

// The types that the guest is told are those of the agent's API, field by field (proto/caisson/agent/v1).

export interface GuestInterface {
  /** Selects the guest's link. */
  readonly macAddress: string;
  /** What the link's MAC address shall become; absent: it stays. */
  readonly newMacAddress?: string;
  /** Name that the link gets. */
  readonly name: string;
  readonly mtu: number;
  /** CIDR notation, IPv4 and IPv6. */
  readonly addresses: readonly string[];
}

export interface GuestRoute {
  /** CIDR or "default". */
  readonly destination: string;
  /** Empty for an on-link route. */
  readonly gateway: string;
  readonly interfaceName: string;
  /** Preferred source address, may be empty. */
  readonly source: string;
  readonly metric: number;
  /** "", "global", "link" or "host". */
  readonly scope: string;
  /** The gateway is on the link although no route says so. */
  readonly onLink: boolean;
  readonly family: "inet" | "inet6";
}

export interface GuestNeighbour {
  readonly address: string;
  readonly macAddress: string;
  readonly interfaceName: string;
}

/** What the guest has to be told so that its links are those of the namespace. */
export interface GuestNetwork {
  readonly interfaces: readonly GuestInterface[];
  /** In an order in which each can be added: a gateway's own route comes before it. */
  readonly routes: readonly GuestRoute[];
  readonly neighbours: readonly GuestNeighbour[];
}

/**
 * The links of a namespace that the VM gets, and their settings. Left out: loopback and what is no Ethernet, links that
 * are down, ports of a bridge or bond (it stands for them), our own taps; routes other than unicast ones of
 * the main table. Of a multipath route the first hop is kept: the agent's API knows one gateway per route.
 *
 * @throws invalid_argument  a name that commands cannot be given
 * @throws unimplemented     two links share a MAC address (ipvlan), by which the guest tells its links apart
 */
export function describeNetwork(scan: IpScan): GuestNetwork {
  const links = scan.links.filter(isMirrored);
  const names = new Set(links.map((link) => link.ifname));
  const interfaces = links.map(describeLink);
  checkDistinct(interfaces);
  const own = new Map(links.map((link) => [link.ifname, link.addr_info]));
  const routes = scan.routes.flatMap((route) => {
    const described = describeRoute(route, names);
    if (described === undefined || isImplied(route, described, own.get(described.interfaceName) ?? []))
      return [];
    return [described];
  });
  return {
    interfaces,
    routes: routes.sort(byDependence),
    neighbours: scan.neighbours.flatMap(({ dst, dev, lladdr }) =>
      names.has(dev) && lladdr !== undefined
        ? [{ address: dst, macAddress: lladdr, interfaceName: dev }]
        : [],
    ),
  };
}

function isMirrored(link: IpLink): boolean {
  return (
    link.link_type === "ether" &&
    link.flags.includes("UP") &&
    link.master === undefined &&
    !isTapName(link.ifname)
  );
}

function describeLink(link: IpLink): GuestInterface {
  // The name is a word in batch files of `ip` and `tc`; a space is impossible, quotes and "#" are not.
  if (!/^[A-Za-z0-9_.:@-]{1,15}$/.test(link.ifname)) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot use link ${JSON.stringify(link.ifname)}: expected a name of letters, digits, "_", ".", ":", "@" and "-"`,
    );
  }
  const macAddress = link.address ?? "";
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(macAddress)) {
    throw new RuntimeError(
      "internal",
      `Cannot use link "${link.ifname}": its MAC address is "${macAddress}"`,
    );
  }
  return {
    macAddress,
    name: link.ifname,
    mtu: Math.min(link.mtu, maxTapMtu),
    addresses: link.addr_info.filter(isKept).map(({ local, prefixlen }) => `${local}/${prefixlen}`),
  };
}

/** Link-local IPv6 addresses the guest makes itself; link-local IPv4 addresses it does not. */
function isKept(address: IpAddress): boolean {
  if (address.dadfailed === true || address.scope === "host") return false;
  return address.family === "inet" || (address.family === "inet6" && address.scope !== "link");
}

function checkDistinct(interfaces: readonly GuestInterface[]): void {
  const seen = new Map<string, string>();
  for (const { macAddress, name } of interfaces) {
    const other = seen.get(macAddress);
    if (other !== undefined) {
      throw new RuntimeError(
        "unimplemented",
        `Cannot give links "${other}" and "${name}" to the VM: both have the MAC address ${macAddress}`,
      );
    }
    seen.set(macAddress, name);
  }
}

function describeRoute(route: IpRoute, names: ReadonlySet<string>): GuestRoute | undefined {
  if (route.type !== "unicast" || (route.table ?? "main") !== "main") return undefined;
  if (route.dst.startsWith("fe80:")) return undefined; // the guest's kernel makes it
  const hop = (route.nexthops ?? [route]).find(({ dev }) => dev !== undefined && names.has(dev));
  if (hop?.dev === undefined || route.flags?.includes("dead") === true) return undefined;
  const family = route.pref !== undefined || route.dst.includes(":") ? "inet6" : "inet";
  return {
    destination: toCidr(route.dst, family),
    gateway: gatewayOf(hop),
    interfaceName: hop.dev,
    source: route.prefsrc ?? "",
    metric: route.metric ?? 0,
    // IPv6 has no scopes of routes.
    scope:
      family === "inet" && ["global", "link", "host"].includes(route.scope ?? "") ? (route.scope ?? "") : "",
    onLink: hop.flags?.includes("onlink") === true,
    family,
  };
}

function gatewayOf(hop: IpNexthop): string {
  return hop.gateway ?? hop.via?.host ?? "";
}

function toCidr(destination: string, family: "inet" | "inet6"): string {
  if (destination === "default" || destination.includes("/")) return destination;
  return `${destination}/${family === "inet" ? 32 : 128}`;
}

/** Whether the guest's kernel makes the route itself when it gets the link's addresses. */
function isImplied(route: IpRoute, described: GuestRoute, addresses: readonly IpAddress[]): boolean {
  if (route.protocol !== "kernel" || described.gateway !== "") return false;
  const [network = "", length = ""] = described.destination.split("/");
  return addresses.some((address) => {
    if (address.family !== described.family || address.noprefixroute === true) return false;
    if (!isKept(address) || address.prefixlen !== Number(length)) return false;
    const subnet = new BlockList();
    const family = address.family === "inet" ? "ipv4" : "ipv6";
    subnet.addSubnet(address.local, address.prefixlen, family);
    return subnet.check(network, family);
  });
}

/** Routes without a gateway first, then the longer prefixes, so that a gateway can be reached when its route comes. */
function byDependence(a: GuestRoute, b: GuestRoute): number {
  const rank = (route: GuestRoute) => (route.gateway === "" ? 0 : 1);
  return rank(a) - rank(b) || prefixLength(b) - prefixLength(a);
}

function prefixLength(route: GuestRoute): number {
  return Number(route.destination.split("/")[1] ?? 0);
}
