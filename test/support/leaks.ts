import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach } from "vitest";
import { findFiles, findOpenFiles } from "./leaks-files.ts";
import { findBlockDevices, findCgroups, findMounts, findUnixSockets, findUsers } from "./leaks-kernel.ts";
import { findNetwork } from "./leaks-network.ts";
import { findProcesses } from "./leaks-processes.ts";
import { keptKinds, type LeakScope, type Thing } from "./leaks-scope.ts";
import { patient } from "./patience.ts";

export type { LeakScope } from "./leaks-scope.ts";

/** What was there at one moment. */
export interface Snapshot {
  readonly scope: LeakScope;
  readonly things: ReadonlyMap<string, Thing>;
}

export interface Difference {
  /** There now and not before. */
  readonly left: readonly Thing[];
  /** There before and gone now, of the kinds that nobody may take away. */
  readonly missing: readonly Thing[];
}

export interface SettleOptions {
  /** How long things may take to go. Default: 5 s, three times that where the guest's CPU is emulated. */
  readonly settleMs?: number;
}

/**
 * `CAISSON_TEST_SHARED_HOST=1` says that other sandboxes come and go on this machine. Then only what carries a mark of
 * the test fails it; the rest is printed. Never set where the result counts.
 */
const isSharedHost = process.env["CAISSON_TEST_SHARED_HOST"] === "1";

const hasHardwareVirtualization = /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync("/proc/cpuinfo", "utf8"));
const defaultSettleMs = hasHardwareVirtualization ? 5_000 : 15_000;
const retryMs = 100;

/** Looks at everything once. */
export async function takeSnapshot(scope: LeakScope): Promise<Snapshot> {
  const [network, blockDevices] = await Promise.all([findNetwork(scope), findBlockDevices(scope)]);
  const found = [
    ...findProcesses(scope),
    ...findMounts(scope),
    ...network,
    ...findCgroups(scope),
    ...findUnixSockets(scope),
    ...findFiles(scope),
    ...blockDevices,
    ...(scope.containerdPid === undefined ? [] : findOpenFiles(scope.containerdPid)),
    ...findUsers(scope),
  ];
  return { scope, things: new Map(found.map((thing) => [`${thing.kind} ${thing.key}`, thing])) };
}

/** Compares two moments. */
export function compare(before: Snapshot, after: Snapshot): Difference {
  return {
    left: [...after.things].filter(([key]) => !before.things.has(key)).map(([, thing]) => thing),
    missing: [...before.things]
      .filter(
        ([key, thing]) => !after.things.has(key) && keptKinds.includes(thing.kind) && thing.mayEnd !== true,
      )
      .map(([, thing]) => thing),
  };
}

/**
 * Resolves when everything is as it was, and fails with a list of what is left when it does not get so in time.
 *
 * Looks again and again: most of these things end without an event that a stranger could wait for.
 */
export async function expectNoLeaks(before: Snapshot, options: SettleOptions = {}): Promise<void> {
  const settleMs = patient(options.settleMs ?? defaultSettleMs);
  const deadline = performance.now() + settleMs;
  for (;;) {
    const difference = compare(before, await takeSnapshot(before.scope));
    const failing = [...difference.left, ...difference.missing].filter(
      (thing) => thing.isMarked || !isSharedHost,
    );
    if (failing.length === 0) {
      noteForeign(difference);
      return;
    }
    if (performance.now() >= deadline) {
      throw new Error(
        `${failing.length} things are not as before, after waiting ${settleMs} ms:\n${format(difference)}`,
      );
    }
    await sleep(retryMs);
  }
}

export interface AroundOptions extends SettleOptions {
  /** Removes what a failed test left, after the check, so that it does not stand in the way of the next. */
  readonly cleanUp?: () => Promise<void>;
}

/** Checks for leaks around every test of the file or group. The scope is asked for before each test. */
export function checkLeaksAroundEachTest(scope: () => LeakScope, options: AroundOptions = {}): void {
  let before: Snapshot | undefined;
  beforeEach(async () => {
    before = await takeSnapshot(scope());
  });
  afterEach(async () => {
    if (before === undefined) throw new Error("No snapshot was taken before the test");
    try {
      // The scope may have changed (containerd restarted): look with the present one.
      await expectNoLeaks({ ...before, scope: scope() }, options);
    } finally {
      await options.cleanUp?.();
    }
  });
}

function noteForeign({ left, missing }: Difference): void {
  const things = [...left, ...missing];
  if (things.length === 0) return;
  const kinds = [...new Set(things.map((thing) => thing.kind))].join(", ");
  console.warn(
    `Not judged, as CAISSON_TEST_SHARED_HOST says: ${things.length} things without a mark (${kinds})`,
  );
}

const reportLimit = 60;

function format({ left, missing }: Difference): string {
  const line = (sign: string) => (thing: Thing) =>
    `  ${sign} ${thing.kind.padEnd(17)} ${thing.text}${thing.isMarked ? "" : " (no mark of this test)"}`;
  const lines = [...withoutContents(left).map(line("left:   ")), ...missing.map(line("missing:"))];
  const more = lines.length > reportLimit ? [`  and ${lines.length - reportLimit} more`] : [];
  return [...lines.slice(0, reportLimit), ...more].join("\n");
}

/** A directory that is left stands for all that is in it. */
function withoutContents(things: readonly Thing[]): Thing[] {
  const files = new Set(things.filter((thing) => thing.kind === "file").map((thing) => thing.key));
  return things.filter((thing) => thing.kind !== "file" || !files.has(dirname(thing.key)));
}
