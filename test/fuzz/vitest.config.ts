import { defineConfig } from "vitest/config";

const minutes = 60_000;
/** Time of one property in the long run. */
const longMinutes = Number(process.env["CAISSON_FUZZ_MINUTES"] ?? 0);

// A suite of its own beside those of the root's vitest.config.ts: `scripts/fuzz` runs it, short and long.
export default defineConfig({
  test: {
    name: "fuzz",
    root: import.meta.dirname,
    include: ["**/*.test.ts"],
    setupFiles: ["set-up.ts"],
    testTimeout: (1 + 3 * longMinutes) * minutes,
    pool: "forks",
    maxWorkers: 2,
    reporters: ["verbose"],
  },
});
