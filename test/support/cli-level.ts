import { test } from "vitest";

/** Whether the long cases run too: `CAISSON_TEST_LEVEL=all` (`make test-all`) instead of `essential` (`make test`). */
const runsAll = process.env["CAISSON_TEST_LEVEL"] === "all";

const reason = "long case: set CAISSON_TEST_LEVEL=all to run it";

/** A test of `make test-all`; elsewhere it is skipped and says why. */
export const testAll: typeof test = runsAll ? test : (skipWithReason(test) as typeof test);

function skipWithReason(base: typeof test) {
  return (name: string) => base(name, (context) => context.skip(reason));
}
