/**
 * Merging texts in the exposition format of Prometheus: every family appears once with the lines of all sandboxes, each with
 * the labels that say whose it is. Lines that are not of the format are left out, so that one garbled answer does not
 * make the whole unreadable.
 *
 * Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
 */
import { gauge } from "../base/metrics.ts";

export interface SandboxMetrics {
  readonly namespace: string;
  readonly sandboxId: string;
  /** Undefined when the daemon gave no answer. */
  readonly text: string | undefined;
}

/** What is added to every line. */
export const addedLabels = ["namespace", "sandbox"] as const;

export const sandboxUp = gauge(
  "caisson_sandbox_up",
  "1 when the daemon of the sandbox gave its metrics, 0 when it lives but did not answer in time.",
  addedLabels,
);

interface MergedFamily {
  readonly help: string;
  readonly type: string;
  readonly lines: string[];
}

const labelPattern = String.raw`[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*"`;
const samplePattern = new RegExp(
  String.raw`^([a-zA-Z_:][\w:]*)(?:\{((?:${labelPattern},?)*)\})? ([+-]?(?:[0-9.]+(?:e[+-]?[0-9]+)?|Inf|NaN))$`,
  "i",
);

export function mergeMetrics(sandboxes: readonly SandboxMetrics[]): string {
  const families = new Map<string, MergedFamily>();
  families.set(sandboxUp.name, {
    help: sandboxUp.help,
    type: sandboxUp.type,
    lines: sandboxes.map(
      (sandbox) => `${sandboxUp.name}{${labelsOf(sandbox)}} ${sandbox.text === undefined ? 0 : 1}`,
    ),
  });
  for (const sandbox of sandboxes) add(families, sandbox);
  return [...families]
    .map(([name, { help, type, lines }]) =>
      [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines, ""].join("\n"),
    )
    .join("");
}

function add(families: Map<string, MergedFamily>, sandbox: SandboxMetrics): void {
  const labels = labelsOf(sandbox);
  const helps = new Map<string, string>();
  let current: { readonly name: string; readonly family: MergedFamily } | undefined;
  for (const line of (sandbox.text ?? "").split("\n")) {
    const [, keyword, name, rest = ""] = /^# (HELP|TYPE) ([a-zA-Z_:][\w:]*) ?(.*)$/.exec(line) ?? [];
    if (keyword !== undefined && name !== undefined) {
      if (keyword === "HELP") helps.set(name, rest);
      else current = openFamily(families, name, rest, helps.get(name) ?? "");
      continue;
    }
    const [, sample, ownLabels = "", value] = samplePattern.exec(line) ?? [];
    if (sample === undefined || current === undefined || !belongsTo(sample, current.name, current.family))
      continue;
    current.family.lines.push(`${sample}{${labels}${ownLabels && `,${ownLabels}`}} ${value}`);
  }
}

/** Undefined when daemons of two versions do not agree on what it is: the first one counts. */
function openFamily(families: Map<string, MergedFamily>, name: string, type: string, help: string) {
  if (name === sandboxUp.name || !/^(counter|gauge|histogram|summary|untyped)$/.test(type)) return undefined;
  const known = families.get(name);
  if (known !== undefined) return known.type === type ? { name, family: known } : undefined;
  const family = { help, type, lines: [] };
  families.set(name, family);
  return { name, family };
}

function belongsTo(sample: string, name: string, { type }: MergedFamily): boolean {
  if (type !== "histogram" && type !== "summary") return sample === name;
  return sample.startsWith(name) && /^(_bucket|_sum|_count|)$/.test(sample.slice(name.length));
}

/** Ids hold nothing that would have to be escaped, but records are read from files. */
function labelsOf({ namespace, sandboxId }: SandboxMetrics): string {
  const [first, second] = addedLabels;
  return `${first}="${escape(namespace)}",${second}="${escape(sandboxId)}"`;
}

function escape(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll('"', '\\"');
}
