import { defineConfig } from "vitest/config";
import { patient } from "./test/support/patience.ts";

const minutes = 60_000;

/** One suite per folder of test/. Suites that own machine-wide things run one after the other, file by file. */
function suite(name: string, options: { order: number; parallel: boolean; timeoutMs: number }) {
  return {
    extends: true as const,
    test: {
      name,
      include: [`test/${name}/**/*.test.ts`],
      // Run by `node --test` inside the lab.
      exclude: ["test/lab/guest/**"],
      testTimeout: patient(options.timeoutMs),
      hookTimeout: patient(options.timeoutMs),
      sequence: { groupOrder: options.order },
      // A file gets a process of its own; two at most, because the smallest machine we care for has two cores.
      pool: "forks" as const,
      maxWorkers: options.parallel ? 2 : 1,
      // The other worker's processes and namespaces are no leak of this one's test (test/support/leaks.ts).
      ...(options.parallel && { env: { CAISSON_TEST_SHARED_HOST: "1" } }),
    },
  };
}

export default defineConfig({
  test: {
    projects: [
      suite("unit", { order: 1, parallel: true, timeoutMs: 20_000 }),
      suite("peer", { order: 2, parallel: true, timeoutMs: 60_000 }),
      suite("vm", { order: 3, parallel: false, timeoutMs: 5 * minutes }),
      suite("library", { order: 4, parallel: false, timeoutMs: 5 * minutes }),
      suite("e2e", { order: 5, parallel: false, timeoutMs: 5 * minutes }),
      suite("cri", { order: 6, parallel: false, timeoutMs: 5 * minutes }),
      suite("podman", { order: 7, parallel: false, timeoutMs: 5 * minutes }),
      suite("docker", { order: 8, parallel: false, timeoutMs: 5 * minutes }),
      suite("faults", { order: 9, parallel: false, timeoutMs: 5 * minutes }),
      // Emulated, and on a machine that may be busy.
      suite("lab", { order: 10, parallel: false, timeoutMs: 30 * minutes }),
    ],
    // Prints every test with its time when it ends (and a skip's reason), then the standard closing lines.
    reporters: ["verbose"],
    slowTestThreshold: patient(60_000),
    passWithNoTests: true,
    teardownTimeout: patient(60_000),
    // CI's machines are shared: a test that a busy minute broke gets a second chance, which the report names.
    retry: process.env["CI"] === "true" ? 1 : 0,
    // `test` = the essential cases, `all` adds the long ones (test/support/cli-level.ts).
    env: { CAISSON_TEST_LEVEL: process.env["CAISSON_TEST_LEVEL"] ?? "essential" },
  },
});
