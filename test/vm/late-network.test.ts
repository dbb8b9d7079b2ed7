import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { type ModelContainerResult, runModelContainer } from "../support/model-container.ts";
import { makeOutsideNetwork, type OutsideNetwork, plugHook } from "../support/outside-network.ts";

const name = `caisson-out-${process.pid}`;
checkLeaksAroundEachTest(() => ({ marks: [name] }));

const command = [
  "sh",
  "-c",
  "ip -o -4 addr show dev eth0; cat /sys/class/net/eth0/address; ping -c 1 -w 20 10.91.0.1",
];

function expectNetwork(result: ModelContainerResult): void {
  expect(result.output).toContain("10.91.0.2/24");
  expect(result.output).toContain("1 packets received");
  expect(result.linkAddress).toMatch(/^[0-9a-f:]{17}$/);
  expect(result.output).toContain(result.linkAddress);
}

test("a network that is set up between Create and Start reaches the guest (Docker from 28)", async () => {
  using outside = makeOutsideNetwork(name);

  expectNetwork(await runModelContainer({ command, beforeStart: (pid) => outside.plug(pid) }));
});

/** A second pair beside the one of `OutsideNetwork`. */
function plugBoth(outside: OutsideNetwork, pid: number): void {
  outside.plug(pid);
  const inside = ["nsenter", `--net=/proc/${pid}/ns/net`, "ip"];
  const run = (...argv: string[]) => execFileSync(argv[0] ?? "", argv.slice(1));
  run(
    "ip",
    "-n",
    outside.name,
    "link",
    "add",
    "out1",
    "type",
    "veth",
    "peer",
    "name",
    "eth1",
    "netns",
    String(pid),
  );
  run("ip", "-n", outside.name, "addr", "add", "10.92.0.1/24", "dev", "out1");
  run("ip", "-n", outside.name, "link", "set", "out1", "up");
  run(...inside, "addr", "add", "10.92.0.2/24", "dev", "eth1");
  run(...inside, "link", "set", "eth1", "up");
}

test("several links between Create and Start are plugged into q35", async () => {
  using outside = makeOutsideNetwork(name);
  const second = "ip -o -4 addr show dev eth1; ping -c 1 -w 20 10.92.0.1";

  const result = await runModelContainer({
    command: ["sh", "-c", `${command[2]}; ${second}`],
    beforeStart: (pid) => plugBoth(outside, pid),
    settings: { machine: "q35" },
  });

  expect(result.output).toContain("10.91.0.2/24");
  expect(result.output).toContain("10.92.0.2/24");
  expect(result.output.match(/1 packets received/g)).toHaveLength(2);
});

test("a machine that takes no network card later refuses several links", async () => {
  using outside = makeOutsideNetwork(name);

  await expect(
    runModelContainer({
      command,
      beforeStart: (pid) => plugBoth(outside, pid),
      settings: { machine: "microvm" },
    }),
  ).rejects.toThrow(/the links eth0, eth1 have come after the VM was made/);
});

test("a network that a prestart hook sets up reaches the guest (Docker up to 27)", async () => {
  using outside = makeOutsideNetwork(name);

  expectNetwork(await runModelContainer({ command, hooks: { prestart: [plugHook(outside)] } }));
});
