import { existsSync } from "node:fs";
import { join } from "node:path";

/** What `make build` made, or a copy of it that nobody changes while the tests run (its name must be `build`). */
const build = process.env["CAISSON_TEST_BUILD"] ?? join(import.meta.dirname, "../../build");

/** A file of the build. It may be missing. */
export function buildPath(...parts: string[]): string {
  return join(build, ...parts);
}

/** Throws when a file that a test cannot do without is missing, and says how to get it. */
export function requireFiles(...paths: string[]): void {
  const missing = paths.filter((path) => !existsSync(path));
  if (missing.length === 0) return;
  throw new Error(
    `Cannot run these tests: ${missing.join(", ")} missing; run \`make build\` and scripts/test-tools`,
  );
}
