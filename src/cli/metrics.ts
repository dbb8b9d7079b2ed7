import { describe } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { listMetricsTargets, type MetricsTarget } from "../shim/metrics-targets.ts";
import { type Host, requireRoot } from "./host.ts";
import { fetchMetrics } from "./metrics-fetch.ts";
import { mergeMetrics, type SandboxMetrics } from "./metrics-merge.ts";

/** A daemon answers within a few milliseconds, with about 10 KiB. */
const limits = { timeoutMs: 1_000, maxBytes: 256 * 1024 };
/** Asked at the same time, so that hundreds of hanging daemons do not take minutes. */
const maxParallel = 64;

/**
 * `caisson metrics`. Succeeds also when daemons do not answer: the others' metrics are worth having, and those that are
 * missing can be told by `caisson_sandbox_up`.
 */
export async function metrics(host: Host): Promise<number> {
  requireRoot();
  const targets = await listMetricsTargets(host.config.stateDirectory);
  const answers: SandboxMetrics[] = [];
  for (let index = 0; index < targets.length; index += maxParallel) {
    answers.push(...(await Promise.all(targets.slice(index, index + maxParallel).map(ask))));
  }
  const text = mergeMetrics(answers);
  await new Promise<void>((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(error) : resolve()));
  });
  return 0;
}

async function ask({ namespace, sandboxId, path }: MetricsTarget): Promise<SandboxMetrics> {
  try {
    return { namespace, sandboxId, text: await fetchMetrics(path, limits) };
  } catch (error) {
    const why = foreignText(describe(error));
    process.stderr.write(`caisson: sandbox "${sandboxId}" of namespace "${namespace}" is left out: ${why}\n`);
    return { namespace, sandboxId, text: undefined };
  }
}
