import { expect, test } from "vitest";
import { loopbackNameServers, parseNameServers } from "../../../src/sandbox/name-servers.ts";

test("parseNameServers() takes servers of the loopback, but not the guest's own, from the three that are used", () => {
  const lines = [
    "# nameserver 127.0.0.12",
    "search example.org",
    "nameserver 127.0.0.11",
    "nameserver\t127.0.0.11 # twice",
    "nameserver 127.0.0.1",
    "nameserver 127.0.0.13",
  ];
  expect(parseNameServers(lines.join("\n"))).toEqual(["127.0.0.11"]);
  expect(parseNameServers("nameserver 127.1.2.3\r\noptions ndots:0\r\n")).toEqual(["127.1.2.3"]);
  const others = ["10.0.0.1", "::1", "127.1", "127.0.0.11.example.org", "127.0.0.011", "0x7f.0.0.11"];
  for (const address of others) expect(parseNameServers(`nameserver ${address}\n`), address).toEqual([]);
});

test("a container without a file for it has none", async () => {
  const mounts = [{ destination: "/etc/hosts", type: "bind", source: "/etc/hosts" }];
  expect(await loopbackNameServers({ mounts })).toEqual([]);
});
