/**
 * How often each property is tried. By default a few times with one seed, so that `make test` is the same for everyone;
 * `CAISSON_FUZZ_RUNS` or `CAISSON_FUZZ_MINUTES` (per property) try more, with a seed that is printed on failure.
 */
import fc from "fast-check";

const runs = Number(process.env["CAISSON_FUZZ_RUNS"] ?? 0);
const minutes = Number(process.env["CAISSON_FUZZ_MINUTES"] ?? 0);

if (minutes > 0) {
  fc.configureGlobal({
    numRuns: Number.MAX_SAFE_INTEGER,
    interruptAfterTimeLimit: minutes * 60_000,
    markInterruptAsFailure: false,
  });
} else {
  fc.configureGlobal(runs > 0 ? { numRuns: runs } : { numRuns: 100, seed: 1 });
}
