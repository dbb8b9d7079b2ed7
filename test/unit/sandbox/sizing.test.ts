import { expect, test } from "vitest";
import { parseStrictJson } from "../../../src/base/strict-json.ts";
import { loadConfig } from "../../../src/config/load.ts";
import type { Spec } from "../../../src/oci/spec.ts";
import { sizeOf } from "../../../src/sandbox/sizing.ts";

const config = {
  ...loadConfig({ environment: {}, executableDirectory: "/nowhere" }),
  defaultMemoryMiB: 512,
  memoryOverheadMiB: 96,
  defaultVcpus: 2,
  maxVcpus: 8,
  memoryMiB: 0,
  vcpus: 0,
};
const host = { cpuCount: 16, memoryMiB: 8_192 };
const mib = 1024 ** 2;

/** Through the parser, so that integers beyond 2^53 come as they come from a file. */
function specWith(resources: string): Spec {
  const text = `{"ociVersion":"1.0.2","root":{"path":"r"},"linux":{"resources":${resources}}}`;
  return parseStrictJson(Buffer.from(text), "the test's spec") as unknown as Spec;
}

const sizes = [
  { name: "no limits", resources: "{}", want: { vcpus: 2, memoryMiB: 512 } },
  {
    name: "nulls",
    resources: '{"memory":{"limit":null},"cpu":{"quota":null}}',
    want: { vcpus: 2, memoryMiB: 512 },
  },
  {
    name: "limits",
    resources: `{"memory":{"limit":${256 * mib}},"cpu":{"quota":150000,"period":100000}}`,
    want: { vcpus: 2, memoryMiB: 352 },
  },
  {
    name: "a byte more",
    resources: `{"memory":{"limit":${256 * mib + 1}}}`,
    want: { vcpus: 2, memoryMiB: 353 },
  },
  { name: "the minimum", resources: `{"memory":{"limit":${4 * mib}}}`, want: { vcpus: 2, memoryMiB: 100 } },
  { name: "memory 0", resources: '{"memory":{"limit":0}}', want: { vcpus: 2, memoryMiB: 512 } },
  { name: "memory -1", resources: '{"memory":{"limit":-1}}', want: { vcpus: 2, memoryMiB: 512 } },
  {
    name: "unlimited memory as Docker writes it",
    resources: '{"memory":{"limit":9223372036854771712}}',
    want: { vcpus: 2, memoryMiB: 512 },
  },
  { name: "2^53-1", resources: '{"memory":{"limit":9007199254740991}}', want: { vcpus: 2, memoryMiB: 512 } },
  {
    name: "a quota without a period",
    resources: '{"cpu":{"quota":350000}}',
    want: { vcpus: 4, memoryMiB: 512 },
  },
  { name: "a tenth of a CPU", resources: '{"cpu":{"quota":10000}}', want: { vcpus: 1, memoryMiB: 512 } },
  { name: "quota -1", resources: '{"cpu":{"quota":-1,"period":100000}}', want: { vcpus: 2, memoryMiB: 512 } },
  {
    name: "a negative period",
    resources: '{"cpu":{"quota":300000,"period":-5}}',
    want: { vcpus: 3, memoryMiB: 512 },
  },
  { name: "period 0", resources: '{"cpu":{"quota":300000,"period":0}}', want: { vcpus: 3, memoryMiB: 512 } },
  {
    name: "a huge quota",
    resources: '{"cpu":{"quota":9007199254740990,"period":1}}',
    want: { vcpus: 8, memoryMiB: 512 },
  },
];

test.each(sizes)("sizeOf() with $name", ({ resources, want }) => {
  expect(sizeOf(specWith(resources), config, host)).toEqual(want);
});

test("no more vCPUs than the host has, and at least one", () => {
  expect(sizeOf(specWith("{}"), config, { ...host, cpuCount: 1 }).vcpus).toBe(1);
});

test.each([
  { name: "below the minimum", limit: 4 * mib - 1, words: "below the minimum of 4194304 bytes" },
  { name: "of one byte", limit: 1, words: "below the minimum" },
  { name: "above the host's memory", limit: 8_192 * mib, words: "above the 8192 MiB of this host" },
])("a memory limit $name is refused", ({ limit, words }) => {
  expect(() => sizeOf(specWith(`{"memory":{"limit":${limit}}}`), config, host)).toThrow(
    expect.objectContaining({ code: "invalid_argument", message: expect.stringContaining(words) }),
  );
});
