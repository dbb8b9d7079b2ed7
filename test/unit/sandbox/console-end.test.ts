import { expect, test } from "vitest";
import { describeConsole } from "../../../src/sandbox/console-end.ts";

const many = Array.from({ length: 50 }, (_, index) => `line ${index}`);

test("describeConsole(): the last lines, as text that does no harm", () => {
  expect(describeConsole(" \r\n")).toBe("the guest's console is empty");
  expect(describeConsole([...many, "\u001b[31mred"].join("\r\n"))).toBe(
    "the guest's console ends with: line 43 | line 44 | line 45 | line 46 | line 47 | line 48 | line 49 | \\u001b[31mred",
  );
});

test.each([
  "[    0.68] BUG: kernel NULL pointer dereference, address: 0000000000000008",
  "[    0.68] general protection fault, probably for non-canonical address 0xdead0000000000f5: 0000 [#1] PREEMPT SMP",
  "[    0.68] Kernel panic - not syncing: Attempted to kill init!",
])("describeConsole(): where the kernel went wrong, and what follows: %s", (first) => {
  const rip = "[    0.68] RIP: 0010:0xffffffff81000000";
  const text = describeConsole([...many, first, rip, ...many].join("\n"));

  expect(text).toMatch(/^the guest's kernel went wrong; its console: /);
  expect(text).toContain(`console: ${first} | ${rip} | line 0 | `);
  expect(text).not.toContain("line 28");
});
