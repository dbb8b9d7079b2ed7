import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bootLab, labImage, type Lab } from "../support/lab.ts";
import type { TestLine } from "./guest/line-reporter.ts";
import { cloudHypervisorHost, type Host, microvm, q35 } from "./hosts.ts";

/** Deadlines of the suites are this many times as long as elsewhere. */
const patience = 5;
const minutes = 60_000;
const suiteTimeoutMs = 240 * minutes;
/** What depends on the hypervisor, on each of them. */
const everywhere = [
  "vm/run",
  "vm/lifecycle",
  "vm/network",
  "vm/late-network",
  "vm/volumes",
  "vm/connect",
  "vm/block-volumes",
  "vm/hotplug",
  "vm/errors",
  "e2e/crash",
];
/** What depends on the transport, on the speed of a host or on cgroup v2, once. */
const once = [
  "vm/output",
  "vm/terminal",
  "vm/pod-cgroup",
  "vm/oci-cli",
  "library/template",
  "e2e/run",
  "e2e/task",
  "e2e/output",
  "e2e/acceptance",
];

const root = resolve(import.meta.dirname, "../..");
/** What the runs have seen so far: a file of JSON lines for each hypervisor, kept until the next run on it. */
const results = "build/lab/results";
/** In the cache, which lies in the lab at the same path. */
const containerd = process.env["CAISSON_TEST_CONTAINERD"] ?? "";
/** Only tests whose names match it. */
const chosenTests = process.env["CAISSON_LAB_TESTS"] || ".";
const chosenFiles = listIn("CAISSON_LAB_FILES");
const chosenHosts = listIn("CAISSON_LAB_HOSTS");
const plans = [microvm, q35, cloudHypervisorHost]
  .filter(({ name }) => chosenHosts?.some((chosen) => name.includes(chosen)) ?? true)
  .map((host) => ({ host, files: chosenFiles ?? [...everywhere, ...(host === microvm ? once : [])] }));

const image = labImage();
const isEverything = process.env["CAISSON_TEST_LEVEL"] === "all";
const seen: { readonly host: Host; readonly lines: readonly TestLine[] }[] = [];
let lab: Lab | undefined;
beforeAll(async () => {
  if (image.tag === "there" && isEverything) lab = await bootLab({ image: image.path });
});
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  if (seen.length > 0) console.log(table());
});

test.for(plans)("the suites on $host.name", { timeout: suiteTimeoutMs }, async ({ host, files }, context) => {
  const reason = image.tag === "missing" ? image.reason : host.missing;
  if (reason !== undefined) context.skip(reason);
  if (lab === undefined) return context.skip("long case: make test-lab runs it");
  const report = join(results, `${host.name.toLowerCase().replaceAll(" ", "-")}.jsonl`);
  mkdirSync(join(root, results), { recursive: true });
  rmSync(join(root, report), { force: true });
  const result = await lab
    .run(script(host, files, report), { timeoutMs: suiteTimeoutMs })
    .finally(() => seen.push({ host, lines: linesOf(join(root, report)) }));
  console.log(result.stdout);

  expect(result.exitCode, result.stderr).toBe(0);
  expect(filesOf(seen.at(-1)?.lines ?? []).length).toBeGreaterThanOrEqual(files.length);
});

/** One process for all files: to load the same modules for each takes longer than its tests. */
function script({ settings }: Host, files: readonly string[], report: string): string {
  const paths = files.map((file) => `test/${file}.test.ts`).join(" ");
  return `
export CAISSON_TEST_CONTAINERD='${containerd}' CAISSON_TEST_SETTINGS='${settings}' CAISSON_TEST_PATIENCE=${patience}
export CAISSON_LAB_REPORT=/host/tree/${report} NO_COLOR=1
mkdir -p build/test
exec build/libexec/node node_modules/vitest/vitest.mjs run --project vm --project library --project e2e --no-isolate ${paths} \\
  --testNamePattern='${chosenTests}' --reporter=verbose --reporter="$PWD/test/lab/guest/line-reporter.ts" 2>&1`;
}

function linesOf(path: string): TestLine[] {
  if (!existsSync(path)) return [];
  const text = readFileSync(path, "utf8");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as TestLine);
}

function filesOf(lines: readonly TestLine[]): string[] {
  return [...new Set(lines.filter(({ state }) => state !== "printed").map(({ file }) => file))];
}

function table(): string {
  const rows = seen.flatMap(({ host, lines }) => {
    const files = filesOf(lines).sort();
    return files.map((file) => {
      const own = lines.filter((line) => line.file === file);
      const count = (state: TestLine["state"]) => own.filter((line) => line.state === state).length;
      const seconds = own.reduce((sum, line) => sum + line.seconds, 0);
      const cells = [count("passed"), count("failed"), count("skipped"), seconds];
      return [host.name.padEnd(18), file.padEnd(30), ...cells.map((cell) => `${cell}`.padStart(8))].join(" ");
    });
  });
  const head = `${"hypervisor".padEnd(18)} ${"suite".padEnd(30)}   passed   failed  skipped        s`;
  return [head, ...rows].join("\n");
}

function listIn(variable: string): string[] | undefined {
  const text = process.env[variable] ?? "";
  return text === "" ? undefined : text.split(",");
}
