import { expect, test } from "vitest";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { type ModelContainerResult, runModelContainer } from "../support/model-container.ts";
import { makeOutsideNetwork, plugHook } from "../support/outside-network.ts";

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

test("a network that a prestart hook sets up reaches the guest (Docker up to 27)", async () => {
  using outside = makeOutsideNetwork(name);

  expectNetwork(await runModelContainer({ command, hooks: { prestart: [plugHook(outside)] } }));
});
