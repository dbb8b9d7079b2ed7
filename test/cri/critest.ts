/**
 * Runs critest, the conformance suite of CRI, against a containerd of its own with our runtime:
 *
 *     node critest.ts [HANDLER]     caisson (the default), caisson-shim, or runc to see what is fair
 *
 * Prints what passed, failed and was skipped with its reason; exits with 1 when a spec failed. What it does not run stands in
 * critest-skip.txt. CAISSON_CRITEST_FOCUS=REGEX: only specs that match.
 */
import { readFileSync } from "node:fs";
import { run } from "../support/cli-run.ts";
import { type Handler, startCri } from "../support/cri.ts";
import { readSkips } from "./critest-skips.ts";

interface Spec {
  readonly name: string;
  readonly state: string;
  readonly message: string;
}

const timeoutMs = 90 * 60_000;
const handler = (process.argv[2] ?? "caisson") as Handler;
const focus = process.env["CAISSON_CRITEST_FOCUS"];
const skips = handler === "runc" ? [] : readSkips();

const specs = await runSpecs();
const named = (state: (spec: Spec) => boolean) => specs.filter(state);
const passed = named(({ state }) => state === "passed");
const skipped = named(({ state }) => state === "skipped" || state === "pending");
const failed = named((spec) => !passed.includes(spec) && !skipped.includes(spec));
for (const { name, message } of skipped) process.stdout.write(`skipped: ${name}: ${message}\n`);
for (const { name, message } of failed) process.stdout.write(`FAILED:  ${name}: ${message}\n`);
const unused = skips.filter(({ spec }) => !specs.some(({ name }) => name.endsWith(spec)));
for (const { spec } of unused)
  process.stdout.write(`FAILED:  critest-skip.txt names "${spec}", which is no spec\n`);
process.stdout.write(
  `critest (${handler}): ${passed.length} passed, ${failed.length} failed, ${skipped.length} skipped\n`,
);
process.exitCode = failed.length + unused.length > 0 || passed.length === 0 ? 1 : 0;

async function runSpecs(): Promise<Spec[]> {
  await using cri = await startCri();
  const report = cri.dir.join("critest.json");
  const argv = cri.inNetwork(
    // Its specs leave shared memory behind.
    "unshare",
    "--ipc",
    cri.tool("critest"),
    `--config=/dev/null`,
    `--runtime-endpoint=unix://${cri.socket}`,
    `--image-endpoint=unix://${cri.socket}`,
    `--runtime-handler=${handler}`,
    "--ginkgo.no-color",
    "--ginkgo.succinct",
    `--ginkgo.timeout=${timeoutMs}ms`,
    `--ginkgo.json-report=${report}`,
    ...skips.map(({ spec }) => `--ginkgo.skip=${escapeRegExp(spec)}$`),
    ...(focus === undefined ? [] : [`--ginkgo.focus=${focus}`]),
  );
  const result = await run(argv, {
    timeoutMs: timeoutMs + 60_000,
    cwd: cri.dir.path,
    env: { TMPDIR: cri.dir.path },
  });
  try {
    return readReport(report);
  } catch (cause) {
    throw new Error(`critest left no report: ${result.stdout.slice(-4000)}${result.stderr.slice(-2000)}`, {
      cause,
    });
  }
}

/** Ginkgo's report, without the benchmarks, which are specs too. */
function readReport(path: string): Spec[] {
  const [suite] = JSON.parse(readFileSync(path, "utf8")) as [
    {
      SpecReports: {
        LeafNodeType: string;
        ContainerHierarchyTexts: string[] | null;
        LeafNodeText: string;
        State: string;
        Failure?: { Message?: string };
      }[];
    },
  ];
  return suite.SpecReports.filter(
    ({ LeafNodeType, LeafNodeText }) => LeafNodeType === "It" && !LeafNodeText.includes("benchmark"),
  ).map(({ ContainerHierarchyTexts, LeafNodeText, State, Failure }) => {
    const name = [...(ContainerHierarchyTexts ?? []), LeafNodeText].join(" ").replace("[k8s.io] ", "");
    const reason = skips.find(({ spec }) => name.endsWith(spec))?.reason;
    const message = reason ?? Failure?.Message ?? "not selected";
    return { name, state: State, message: message.replaceAll(/\s+/g, " ").slice(0, 600) };
  });
}

function escapeRegExp(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}
