import { afterAll, beforeAll, expect, test } from "vitest";
import { bootLab, labImage, type Lab } from "../support/lab.ts";
import { cloudHypervisorHost, type Host, microvm, q35 } from "./hosts.ts";

/** Deadlines of the suites are this many times as long as elsewhere. */
const patience = 5;
const minutes = 60_000;
const suiteTimeoutMs = 240 * minutes;
/** What depends on the hypervisor, on each of them. */
const everywhere = ["vm/run", "vm/lifecycle", "vm/network", "vm/volumes", "vm/connect"];
/** What is QEMU's, or depends on the transport, on the speed of a host or on cgroup v2, once. */
const once = [
  "vm/block-volumes",
  "vm/output",
  "vm/terminal",
  "vm/pod-cgroup",
  "e2e/run",
  "e2e/task",
  "e2e/output",
  "e2e/crash",
];

/** In the cache, which lies in the lab at the same path. */
const containerd = process.env["CAISSON_TEST_CONTAINERD"] ?? "";
const chosenFiles = listIn("CAISSON_LAB_FILES");
const chosenHosts = listIn("CAISSON_LAB_HOSTS");
const plans = [microvm, q35, cloudHypervisorHost]
  .filter(({ name }) => chosenHosts?.some((chosen) => name.includes(chosen)) ?? true)
  .map((host) => ({ host, files: chosenFiles ?? [...everywhere, ...(host === microvm ? once : [])] }));

interface Row {
  readonly host: string;
  readonly file: string;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly seconds: number;
}

/** What vitest's JSON reporter says of a file, as far as it is used. */
interface FileReport {
  readonly name: string;
  readonly startTime: number;
  readonly endTime: number;
  readonly message: string;
  readonly assertionResults: readonly { readonly status: string }[];
}

const image = labImage();
const isEverything = process.env["CAISSON_TEST_LEVEL"] === "all";
const rows: Row[] = [];
let lab: Lab | undefined;
beforeAll(async () => {
  if (image.tag === "there" && isEverything) lab = await bootLab({ image: image.path });
});
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  if (rows.length > 0) console.log(table());
});

test.for(plans)("the suites on $host.name", { timeout: suiteTimeoutMs }, async ({ host, files }, context) => {
  const reason = image.tag === "missing" ? image.reason : host.missing;
  if (reason !== undefined) context.skip(reason);
  if (lab === undefined) return context.skip("long case: make test-lab runs it");
  const result = await lab.run(script(host, files), { timeoutMs: suiteTimeoutMs });
  const [report = "", log = ""] = split(result.stdout);
  console.log(log);
  const reports = (JSON.parse(report) as { testResults: FileReport[] }).testResults;
  rows.push(...reports.map((file) => row(host, file)));

  expect(result.exitCode, result.stderr).toBe(0);
  expect(reports.length).toBeGreaterThanOrEqual(files.length);
});

function script({ settings }: Host, files: readonly string[]): string {
  const paths = files.map((file) => `test/${file}`).join(" ");
  return `
export CAISSON_TEST_CONTAINERD='${containerd}' CAISSON_TEST_SETTINGS='${settings}' CAISSON_TEST_PATIENCE=${patience} NO_COLOR=1
mkdir -p build/test
status=0
build/libexec/node node_modules/vitest/vitest.mjs run --project vm --project e2e ${paths} \\
  --reporter=verbose --reporter=json --outputFile=/tmp/report.json >/tmp/report.log 2>&1 || status=$?
cat /tmp/report.json
printf '\\0'
cat /tmp/report.log
exit $status`;
}

/** The report and the log. */
function split(stdout: string): string[] {
  return stdout.split("\0");
}

function row(host: Host, { name, startTime, endTime, assertionResults }: FileReport): Row {
  const count = (...statuses: string[]) =>
    assertionResults.filter(({ status }) => statuses.includes(status)).length;
  return {
    host: host.name,
    file: name.slice(name.indexOf("/test/") + "/test/".length),
    passed: count("passed"),
    // A file that does not get to its tests fails as a whole.
    failed: count("failed") + (assertionResults.length === 0 ? 1 : 0),
    skipped: count("skipped", "pending", "todo"),
    seconds: Math.round((endTime - startTime) / 1000),
  };
}

function table(): string {
  const lines = rows.map(({ host, file, passed, failed, skipped, seconds }) =>
    [
      host.padEnd(18),
      file.padEnd(30),
      ...[passed, failed, skipped, seconds].map((cell) => `${cell}`.padStart(8)),
    ].join(" "),
  );
  const head = `${"hypervisor".padEnd(18)} ${"suite".padEnd(30)}   passed   failed  skipped        s`;
  return [head, ...lines].join("\n");
}

function listIn(variable: string): string[] | undefined {
  const text = process.env[variable] ?? "";
  return text === "" ? undefined : text.split(",");
}
