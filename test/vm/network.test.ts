import { existsSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { defaultCapabilities, defaultNamespaces } from "../../src/oci/spec-defaults.ts";
import { makePod, peerMac, podMac } from "../peer/network/pod.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createPod, type Pod, type PodContainer } from "../support/model-pod.ts";

/** The second link. */
const otherMac = "02:00:00:00:00:11";
const foreignMac = "02:00:00:00:00:99";

let net: ReturnType<typeof makePod>;
let pod: Pod;
let container: PodContainer;
beforeAll(async () => {
  net = makePod();
  net.pod.run(`ip link add eth1 address ${otherMac} mtu 9000 type veth peer name peer1 mtu 9000 netns ${net.peer.name}
    ip link set eth1 up; ip address add 10.2.0.5/30 dev eth1; ip route add 10.8.0.0/16 dev eth1 metric 7`);
  net.peer.run("ip link set peer1 up; ip address add 10.2.0.6/30 dev peer1");
  pod = createPod();
  const files = { hosts: "10.2.0.6 other.example\n", "resolv.conf": "search example\nnameserver 10.1.0.1\n" };
  for (const [name, text] of Object.entries(files)) writeFileSync(pod.dir.join(name), text);
  // Administering the network is what a workload needs to try what the host has to stop.
  const added = [...defaultCapabilities, "CAP_NET_RAW", "CAP_NET_ADMIN"];
  container = await pod.start("", {
    process: { capabilities: { bounding: added, effective: added, permitted: added } },
    namespaces: defaultNamespaces.map((type) =>
      type === "network" ? { type, path: net.pod.path } : { type },
    ),
    mounts: Object.keys(files).map((name) => ({
      destination: `/etc/${name}`,
      type: "bind",
      source: pod.dir.join(name),
      options: ["rbind", "ro"],
    })),
  });
});
afterAll(async () => {
  await pod[Symbol.asyncDispose]();
  net[Symbol.dispose]();
});
checkLeaksAroundEachTest(() => pod.leakScope());

const added = ["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_DAC_OVERRIDE"];
const capabilities = { bounding: added, effective: added, permitted: added };

/** What a shell in the guest prints; it must succeed. */
async function inGuest(script: string): Promise<string> {
  const { exitCode, output } = await container.sh(script, { capabilities });
  expect({ exitCode, output }).toMatchObject({ exitCode: 0 });
  return output;
}

test("every link of the namespace is in the guest, with name, MAC address, MTU and addresses", async () => {
  const links = await inGuest("ip -o link; ip -o addr");

  expect(links).toMatch(new RegExp(`eth0: .*,UP,.* mtu 1400 .*link/ether ${podMac}`));
  expect(links).toMatch(new RegExp(`eth1: .*,UP,.* mtu 9000 .*link/ether ${otherMac}`));
  expect(links).toMatch(/eth0 +inet 10\.1\.0\.5\/24/);
  expect(links).toMatch(/eth0 +inet6 fd00::5\/64/);
  expect(links).toMatch(/eth1 +inet 10\.2\.0\.5\/30/);
});

test("so are default, on-link and other routes of both families, and permanent neighbours", async () => {
  const routes = (await inGuest("ip route; ip -6 route; ip neigh")).split("\n").map((line) => line.trim());

  expect(routes).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/^default via 10\.1\.0\.1 dev eth0/),
      expect.stringMatching(/^10\.9\.0\.0\/16 via 169\.254\.1\.1 dev eth0 onlink/),
      expect.stringMatching(/^169\.254\.1\.1 dev eth0 scope link/),
      expect.stringMatching(/^10\.8\.0\.0\/16 dev eth1 scope link +metric 7/),
      expect.stringMatching(/^default via fd00::1 dev eth0/),
      expect.stringMatching(new RegExp(`^10\\.1\\.0\\.1 dev eth0 lladdr ${peerMac}.* PERMANENT`)),
    ]) as string[],
  );
});

test("the outside is reached over each link, by IPv4 and IPv6, with packets of the link's full size", async () => {
  // 28 and 48 bytes of headers.
  await inGuest(
    "ping -c 1 -w 20 -s 1372 10.1.0.1 && ping -6 -c 1 -w 20 -s 1352 fd00::1 && ping -c 1 -w 20 -s 8972 10.2.0.6",
  );
});

test("names, as the files that were bound say", async () => {
  expect(await inGuest("cat /etc/resolv.conf")).toBe("search example\nnameserver 10.1.0.1\n");
  expect(await inGuest("ping -c 1 -w 20 other.example")).toContain("10.2.0.6");
  expect(await inGuest("hostname")).toBe("pod\n");
});

test("frames with another source MAC address than the link's do not leave the host, and the network goes on after", async () => {
  const change = (address: string) =>
    `ip link set eth1 down; ip link set eth1 address ${address}; ip link set eth1 up; ip addr add 10.2.0.5/30 dev eth1 2>/dev/null;`;
  const seen = () => net.peer.run("ip neigh show dev peer1");
  net.peer.run("ip neigh flush dev peer1");

  expect(await container.sh(`${change(foreignMac)} ping -c 2 -w 4 10.2.0.6`, { capabilities })).toMatchObject(
    {
      exitCode: 1,
    },
  );
  expect(seen()).not.toContain(foreignMac);
  await inGuest(`${change(otherMac)} ping -c 1 -w 20 10.2.0.6`);
  expect(seen()).toContain(otherMac);
});

test("a namespace that is gone before the sandbox is deleted is no error", async () => {
  await using other = createPod();
  using goes = makePod();
  const namespaces = defaultNamespaces.map((type) => ({
    type,
    ...(type === "network" && { path: goes.pod.path }),
  }));
  const started = await other.start("", { namespaces });
  goes.pod.remove();
  expect(existsSync(goes.pod.path)).toBe(false);

  await started.remove();
});
