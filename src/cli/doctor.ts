import { createLog, foreignText } from "../base/log.ts";
import { type BootReport, tryBoot } from "../doctor/boot.ts";
import { examine, isHealthy } from "../doctor/doctor.ts";
import type { Finding, Status } from "../doctor/finding.ts";
import { hostProbe } from "../doctor/probe.ts";
import { exitCodes } from "./failure.ts";
import type { Host } from "./host.ts";
import { formatTimeline } from "./timeline-report.ts";

export interface DoctorOptions {
  readonly json: boolean;
  readonly boot: boolean;
}

const marks: Readonly<Record<Status, string>> = { ok: "ok     ", warning: "warning", error: "ERROR  " };
const nameWidth = 20;
const maxTextLength = 2_000;

/** `caisson doctor`: 0 when sandboxes can run here as configured, 1 when not. */
export async function doctor({ config }: Host, { json, boot }: DoctorOptions): Promise<number> {
  const show = json ? () => {} : (finding: Finding) => process.stdout.write(formatFinding(finding));
  const findings = [...(await examine(hostProbe, config, show))];
  let report: BootReport | undefined;
  if (boot) {
    report = await interruptible((signal) =>
      tryBoot(config, createLog("silent", { write: () => {} }), signal),
    );
    findings.push(report.finding);
    show(report.finding);
  }
  const healthy = isHealthy(findings);
  if (json) {
    const timeline = report === undefined ? {} : { timeline: report.phases };
    process.stdout.write(`${JSON.stringify({ healthy, checks: findings, ...timeline }, null, 2)}\n`);
  } else {
    if (report !== undefined) process.stdout.write(`\n${formatTimeline([], report.phases)}`);
    process.stdout.write(
      `\n${healthy ? "Sandboxes can run here." : "Sandboxes cannot run here as configured."}\n`,
    );
  }
  return healthy ? 0 : exitCodes.failed;
}

/** One line, and two more for what is wrong: why it matters and what mends it. */
export function formatFinding({ name, status, finding, why, remedy }: Finding): string {
  const indent = " ".repeat(marks.ok.length + nameWidth + 2);
  const more = [why, remedy === undefined ? undefined : `mend it: ${remedy}`];
  return [
    `${marks[status]} ${name.padEnd(nameWidth)} ${foreignText(finding, maxTextLength)}\n`,
    ...more.flatMap((text) => (text === undefined ? [] : [`${indent}${foreignText(text, maxTextLength)}\n`])),
  ].join("");
}

/** Ctrl-C ends the work in order, so that nothing of it stays. */
async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const abort = () => controller.abort(new Error("Interrupted"));
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of signals) process.once(name, abort);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of signals) process.off(name, abort);
  }
}
