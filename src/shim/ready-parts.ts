import type { ReadyVm } from "../sandbox/ready-vm.ts";
import type { DaemonMetrics } from "./metrics.ts";
import type { ReadyLog } from "./ready-log.ts";

/** What a daemon has that was started before there was a sandbox for it. */
export interface ReadyParts {
  readonly ready: Pick<ReadyVm, "sourceFor" | typeof Symbol.asyncDispose>;
  readonly metrics: DaemonMetrics;
  readonly log: ReadyLog;
}
