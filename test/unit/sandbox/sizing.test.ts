import { expect, test } from "vitest";
import { parseStrictJson } from "../../../src/base/strict-json.ts";
import { loadConfig } from "../../../src/config/load.ts";
import type { Spec } from "../../../src/oci/spec.ts";
import { growthOf, sizeOf } from "../../../src/sandbox/sizing.ts";

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

/** As containerd's CRI plugin writes them, on a specification whose own limits are those of the pause container. */
function podSpec(annotations: Record<string, string>): Spec {
  const own = specWith('{"memory":{"limit":4194304},"cpu":{"shares":2,"quota":1000}}');
  return { ...own, annotations };
}

const containerd = (values: Record<string, string | number>) =>
  podSpec(
    Object.fromEntries(
      Object.entries(values).map(([name, value]) => [`io.kubernetes.cri.sandbox-${name}`, String(value)]),
    ),
  );
const crio = (text: string) => podSpec({ "io.kubernetes.cri-o.PodLinuxResources": text });

test.each([
  {
    name: "limits",
    spec: containerd({ memory: 256 * mib, "cpu-quota": 250_000, "cpu-period": 100_000, "cpu-shares": 512 }),
    want: { vcpus: 3, memoryMiB: 352 },
  },
  {
    name: "no limits",
    spec: containerd({ memory: 0, "cpu-quota": 0, "cpu-period": 0, "cpu-shares": 2 }),
    want: { vcpus: 2, memoryMiB: 512 },
  },
  {
    name: "a request of CPUs only",
    spec: containerd({ "cpu-shares": 3_500 }),
    want: { vcpus: 4, memoryMiB: 512 },
  },
  {
    name: "numbers beyond all bounds",
    spec: containerd({
      memory: "9223372036854775807",
      "cpu-quota": "-1",
      "cpu-shares": "9223372036854775807",
    }),
    want: { vcpus: 2, memoryMiB: 512 },
  },
  {
    name: "no more vCPUs than there may be",
    spec: containerd({ "cpu-shares": 262_144 }),
    want: { vcpus: 8, memoryMiB: 512 },
  },
  {
    name: "limits of CRI-O",
    spec: crio(
      `{"cpu_period":100000,"cpu_quota":150000,"cpu_shares":1024,"memory_limit_in_bytes":${64 * mib}}`,
    ),
    want: { vcpus: 2, memoryMiB: 160 },
  },
  { name: "no limits of CRI-O", spec: crio("{}"), want: { vcpus: 2, memoryMiB: 512 } },
])("a pod is sized by its annotations, not by its first container: $name", ({ spec, want }) => {
  expect(sizeOf(spec, config, host)).toEqual(want);
});

test.each([
  ["text", containerd({ memory: "1Gi" })],
  ["a fraction", containerd({ "cpu-quota": "1.5" })],
  ["more digits than a number has", containerd({ "cpu-shares": "9".repeat(400) })],
  ["an empty value", containerd({ memory: "" })],
  ["what is no JSON", crio("{")],
  ["what is no object", crio("[]")],
  ["too much of it", crio(`{"x":"${"x".repeat(5_000)}"}`)],
  ["a limit above the host's memory", containerd({ memory: 8_192 * mib })],
])("an annotation of a pod with %s is refused", (_, spec) => {
  expect(() => sizeOf(spec, config, host)).toThrow(expect.objectContaining({ code: "invalid_argument" }));
});

test.each([
  { name: "what the host has", changes: {}, want: { maxVcpus: 8, maxMemoryMiB: 8_192 } },
  {
    name: "what is configured",
    changes: { maxMemoryMiB: 2_048, maxVcpus: 3 },
    want: { maxVcpus: 3, maxMemoryMiB: 2_048 },
  },
  {
    name: "never less than it has",
    changes: { maxMemoryMiB: 128, maxVcpus: 1 },
    want: { maxVcpus: 2, maxMemoryMiB: 512 },
  },
  {
    name: "at most the host",
    changes: { maxMemoryMiB: 100_000 },
    want: { maxVcpus: 8, maxMemoryMiB: 8_192 },
  },
  {
    name: "a size of its own stays",
    changes: { memoryMiB: 512, vcpus: 2 },
    want: { maxVcpus: 2, maxMemoryMiB: 512 },
  },
])("growthOf(): $name", ({ changes, want }) => {
  expect(growthOf({ vcpus: 2, memoryMiB: 512 }, { ...config, ...changes }, host)).toEqual(want);
});
