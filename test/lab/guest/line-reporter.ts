/**
 * A reporter for vitest in the lab: a line of JSON for each test that has ended, so that a run that is ended early tells what it
 * has seen.
 */
import { appendFileSync } from "node:fs";
import type { UserConsoleLog } from "vitest";
import type { Reporter, TestCase, TestModule, TestSuite } from "vitest/node";

export interface TestLine {
  /** Below `test/`. */
  readonly file: string;
  /** Empty: the file did not get to its tests; of a group: its hooks failed. */
  readonly test: string;
  readonly state: "passed" | "failed" | "skipped" | "printed";
  readonly seconds: number;
  readonly error?: string;
  /** What it printed. */
  readonly text?: string;
}

const report = process.env["CAISSON_LAB_REPORT"] ?? "";

export default class LineReporter implements Reporter {
  onTestCaseResult(test: TestCase): void {
    const { state, errors } = test.result();
    if (state === "pending") return;
    const seconds = Math.round((test.diagnostic()?.duration ?? 0) / 1000);
    add({ file: fileOf(test.module), test: test.fullName, state, seconds, ...firstOf(errors) });
  }

  onUserConsoleLog({ content }: UserConsoleLog): void {
    add({ file: "", test: "", state: "printed", seconds: 0, text: content.trimEnd() });
  }

  /** Of hooks, after whose failure tests are skipped. */
  onTestSuiteResult(suite: TestSuite): void {
    for (const error of suite.errors())
      add({
        file: fileOf(suite.module),
        test: suite.fullName,
        state: "failed",
        seconds: 0,
        ...firstOf([error]),
      });
  }

  onTestModuleEnd(module: TestModule): void {
    for (const error of module.errors())
      add({ file: fileOf(module), test: "", state: "failed", seconds: 0, ...firstOf([error]) });
  }
}

function fileOf({ moduleId }: TestModule): string {
  return moduleId.slice(moduleId.lastIndexOf("/test/") + "/test/".length);
}

function firstOf(errors: readonly { readonly message: string }[] | undefined): Pick<TestLine, "error"> {
  const [first] = errors ?? [];
  return first === undefined ? {} : { error: first.message };
}

function add(line: TestLine): void {
  appendFileSync(report, `${JSON.stringify(line)}\n`);
}
