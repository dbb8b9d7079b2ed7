import { expect, test } from "vitest";
import { toShownProcesses } from "../../../src/agent-client/shown-processes.ts";
import { caisson } from "../../../src/gen/agent.js";

const { ShowProcessesResponse } = caisson.agent.v1;

const numbers = Array.from({ length: 40 }, () => "0").join(" ");
const stat = `7 (a b) S ${numbers}\n`;
const status = "Name:\tsh\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n";
const good = { pid: 7, stat, status, commandLine: Buffer.from("sh\0-c\0") };
const shown = (processes: object[]) =>
  toShownProcesses(new ShowProcessesResponse({ processes, bootTimeUnixSeconds: 5 })).processes;

test("toShownProcesses() takes what a kernel says", () => {
  expect(shown([good])).toEqual([good]);
});

test.each([
  ["no process", { pid: 0 }],
  ["a number that no process has", { pid: 4_194_305 }],
  ["a stat that was cut", { stat: "7 (a) S 1\n" }],
  ["a second line in stat", { stat: `${stat}8 (b) S ${numbers}\n` }],
  ["a control character in the name", { stat: stat.replace("a b", "a\u001b[2Jb") }],
  ["a status without user ids", { status: status.replace("Uid", "Vid") }],
  ["user ids that are none", { status: status.replace("Uid:\t0", "Uid:\tx") }],
  ["a status of too many lines", { status: status + "X:\t1\n".repeat(64) }],
  ["a control character in status", { status: status.replace("sh", "s\u0007") }],
  ["a line of status without an end", { status: `${status}X:\t1` }],
])("toShownProcesses() leaves out %s", (_, change) => {
  expect(shown([{ ...good, ...change }])).toEqual([]);
});

test("toShownProcesses() is bounded, and each process is there once", () => {
  const many = Array.from({ length: 2000 }, (_, index) => ({ ...good, pid: index + 1 }));
  expect(shown(many)).toHaveLength(1024);
  expect(shown([good, good])).toHaveLength(1);
  expect(shown([{ ...good, commandLine: Buffer.alloc(5000) }])[0]?.commandLine).toHaveLength(4096);
});
