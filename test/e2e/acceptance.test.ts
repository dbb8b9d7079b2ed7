/**
 * The acceptance checklist of the contract between containerd and a shim, each line a test, for each containerd that
 * Caisson works with. At the end a table: build/test/acceptance.md.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, test } from "vitest";
import { type Containerd, isCaisson, startContainerd } from "../support/containerd.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import type { Line } from "./acceptance-lines.ts";
import { methodLines } from "./acceptance-methods.ts";
import { restartLines } from "./acceptance-restart.ts";
import { settingLines } from "./acceptance-settings.ts";
import { shimLines } from "./acceptance-shim.ts";
import { taskLines } from "./acceptance-tasks.ts";
import { patient } from "../support/patience.ts";

const lines: readonly Line[] = [...shimLines, ...taskLines, ...restartLines, ...methodLines, ...settingLines];
const tableFile = join(import.meta.dirname, "../../build/test/acceptance.md");

/** Folders of the containerds, newest first; `scripts/test-tools all` prints them. */
const given = process.env["CAISSON_TEST_CONTAINERDS"] ?? process.env["CAISSON_TEST_CONTAINERD"];
const folders = (given ?? join(homedir(), ".cache/caisson/go/containerd-2.3.7")).split(":");
/** "containerd-1.6.20~ds1-1+deb12u3" → "1.6.20" */
const versionOf = (folder: string) => /\d+\.\d+\.\d+/.exec(basename(folder))?.[0] ?? basename(folder);
const columns = folders.map((folder) => ({ folder, version: versionOf(folder) }));

const results = new Map<string, string>();
const cell = (line: Line, version: string) => `${line.name} ${version}`;

describe.skipIf(!isCaisson).for(columns)("containerd $version", ({ folder, version }) => {
  let containerd: Containerd;
  beforeAll(async () => {
    containerd = await startContainerd(folder);
  });
  afterAll(() => containerd[Symbol.asyncDispose]());
  afterEach(() => containerd.removeAll());
  checkLeaksAroundEachTest(() => containerd.leakScope());

  for (const line of lines) {
    test(line.name, { timeout: patient(line.timeoutMs ?? 120_000) }, async (context) => {
      if (line.skipped !== undefined) {
        results.set(cell(line, version), `not tried: ${line.skipped}`);
        context.skip(line.skipped);
      }
      const begin = performance.now();
      // After the check for leaks, which is part of every line.
      context.onTestFinished(({ task }) => {
        const seconds = ((performance.now() - begin) / 1000).toFixed(1);
        results.set(cell(line, version), task.result?.state === "fail" ? "FAILED" : `ok, ${seconds} s`);
      });
      await line.run(containerd);
    });
  }
});

afterAll(() => {
  const header = ["Line", ...columns.map(({ version }) => `containerd ${version}`)];
  const rows = lines.map((line) => [
    line.name,
    ...columns.map(({ version }) => results.get(cell(line, version)) ?? "not run"),
  ]);
  const table = [header, header.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
  mkdirSync(join(tableFile, ".."), { recursive: true });
  writeFileSync(tableFile, `${table}\n`);
  console.log(readFileSync(tableFile, "utf8"));
});
