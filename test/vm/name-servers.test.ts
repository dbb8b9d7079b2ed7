import { writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makePod } from "../peer/network/pod.ts";
import { testAll } from "../support/cli-level.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createPod, type Pod, type PodContainer } from "../support/model-pod.ts";
import { startNameServer } from "../support/name-server.ts";

const address = "127.0.0.11";
let net: ReturnType<typeof makePod>;
let servers: AsyncDisposable[];
let pod: Pod;
let container: PodContainer;
beforeAll(async () => {
  net = makePod();
  servers = [
    // As Docker's: on the loopback of the namespace, asking others by the links of the container.
    await startNameServer({ netnsPath: net.pod.path, address, answer: "10.1.0.77", upstream: "10.1.0.1" }),
    await startNameServer({ netnsPath: net.peer.path, address: "10.1.0.1", answer: "10.1.0.99" }),
  ];
  pod = createPod();
  const source = pod.dir.join("resolv.conf");
  writeFileSync(source, `nameserver ${address}\noptions ndots:0\n`);
  container = await pod.start("", {
    mounts: [{ destination: "/etc/resolv.conf", type: "bind", source, options: ["rbind", "rprivate"] }],
    namespaces: ["pid", "ipc", "uts", "mount", "network"].map((type) => ({
      type,
      ...(type === "network" && { path: net.pod.path }),
    })),
  });
});
afterAll(async () => {
  await pod?.[Symbol.asyncDispose]();
  // What the redirection had in the namespace has gone with it.
  expect(net.pod.run("tc qdisc show dev eth0")).not.toContain("ingress");
  for (const server of servers) await server[Symbol.asyncDispose]();
  net[Symbol.dispose]();
});
checkLeaksAroundEachTest(() => pod.leakScope());

/** What resolves an IPv4 address by UDP. */
const lookUp = (name: string) => container.sh(`nslookup -type=a ${name}`);

test("names are resolved by the name server in the namespace on the host", async () => {
  expect((await lookUp("neighbour")).output).toContain("10.1.0.77");
});

test("what that server asks outside by the container's link comes back to it, and the container's own queries to the container", async () => {
  expect((await lookUp("far.outside")).output).toContain("10.1.0.99");
  expect((await lookUp("own.outside 10.1.0.1")).output).toContain("10.1.0.99");
});

test("the server is reached by TCP, with one query after the other", async () => {
  const query = String.raw`printf '\000\023\022\064\001\000\000\001\000\000\000\000\000\000\001a\000\000\001\000\001'`;

  const { output } = await container.sh(
    `{ ${query}; sleep 1; ${query}; sleep 1; } | nc ${address} 53 | hexdump -C`,
  );

  // Each with the address 10.1.0.77 in it.
  expect(output.replaceAll(/^\S+|\|.*$|\s/gm, "").match(/00040a01004d/g)).toHaveLength(2);
});

test("port 53 is not taken: a name server of the workload can listen on every address", async () => {
  expect((await container.sh("netstat -lntu | grep ':53 '")).output).toBe("");
  const listen = "nc -l -p 53 >/tmp/heard & sleep 1; echo mine | nc 127.0.0.1 53; wait; cat /tmp/heard";

  expect((await container.sh(listen)).output).toBe("mine\n");
  expect((await lookUp("neighbour")).output).toContain("10.1.0.77");
});

test("no other port and no other address of the namespace's loopback is served", async () => {
  const { output } = await container.sh(
    "nc -w 2 127.0.0.11 80; nc -w 2 127.0.0.12 53; nc -w 2 127.0.0.1 53; echo over",
  );

  expect(output).toMatch(/(Connection refused[^]*){3}over/);
});

testAll("a flood of queries leaves the server answering", async () => {
  const flood = "for i in $(seq 200); do nslookup -type=a n$i >/dev/null & done; wait; echo done";

  expect((await container.sh(flood)).output).toContain("done");
  expect((await lookUp("after")).output).toContain("10.1.0.77");
});
