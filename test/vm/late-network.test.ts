import { execFileSync } from "node:child_process";
import { afterEach, expect, test } from "vitest";
import type { SpecHooks } from "../../src/oci/spec.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { type ModelContainerResult, runModelContainer } from "../support/model-container.ts";

checkLeaksAroundEachTest(() => ({ marks: [outsideName] }));

const outsideName = `caisson-out-${process.pid}`;
const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const undo of cleanups.splice(0).reverse()) undo();
});

/** A namespace of the test's own that stands for the network outside; its link reaches the sandbox's namespace. */
function makeOutside(): { name: string; plug(pid: number): void } {
  const name = outsideName;
  execFileSync("ip", ["netns", "add", name]);
  cleanups.push(() => execFileSync("ip", ["netns", "delete", name]));
  return { name, plug: (pid) => execFileSync("sh", ["-c", plugScript(name, String(pid))]) };
}

/** What Docker does once it knows the pid: a veth pair into the namespace, with address and default route. */
function plugScript(outside: string, pid: string): string {
  const inside = `nsenter --net=/proc/${pid}/ns/net ip`;
  return [
    `ip -n ${outside} link add out0 type veth peer name eth0 netns ${pid}`,
    `ip -n ${outside} addr add 10.91.0.1/24 dev out0`,
    `ip -n ${outside} link set out0 up`,
    `${inside} addr add 10.91.0.2/24 dev eth0`,
    `${inside} link set eth0 up`,
    `${inside} route add default via 10.91.0.1`,
  ].join(" && ");
}

const command = [
  "sh",
  "-c",
  "ip -o -4 addr show dev eth0; cat /sys/class/net/eth0/address; ping -c 1 -w 20 10.91.0.1",
];

function expectNetwork(result: ModelContainerResult): void {
  expect(result.output).toContain("10.91.0.2/24");
  expect(result.output).toContain("1 packets received");
  expect(result.output).toContain(result.linkAddress);
}

test("a network that is set up between Create and Start reaches the guest (Docker from 28)", async () => {
  const outside = makeOutside();

  const result = await runModelContainer({
    command,
    beforeStart: (pid) => outside.plug(pid),
  });

  expectNetwork(result);
});

test("a network that a prestart hook sets up reaches the guest (Docker up to 27)", async () => {
  const outside = makeOutside();
  const findPid = `pid=$(sed -n 's/.*"pid":\\([0-9]*\\).*/\\1/p')`;
  const hooks: SpecHooks = {
    prestart: [
      {
        path: "/bin/sh",
        args: ["sh", "-c", `${findPid}; ${plugScript(outside.name, "$pid")}`],
        env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
      },
    ],
  };

  const result = await runModelContainer({ command, hooks });

  expectNetwork(result);
});
