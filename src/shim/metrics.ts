import type { Code } from "../base/errors.ts";
import { Counter, type Family, familyOf, Gauge, Histogram } from "../base/metrics.ts";
import type { ProcessState, Sandbox, SandboxEvent } from "../sandbox/model.ts";
import type { SandboxObserver } from "../sandbox/observer.ts";
import { definitions } from "./metrics-definitions.ts";
import { processFamilies } from "./metrics-process.ts";
import { version } from "./version.ts";

/** What is asked for its numbers when somebody asks for the metrics. */
export interface MetricsSources {
  readonly sandbox: Pick<Sandbox, "containers">;
  readonly publisher: { readonly queued: number; readonly sent: number; readonly dropped: number };
  readonly log: { readonly dropped: number };
  /** Of the process. */
  readonly sandboxCount: number;
}

type Operation = "create" | "start" | "delete" | "exec" | "exec_start" | "exec_delete";

/** The phases of a boot by their names in the timeline. A guest may say anything: only these are taken over. */
const bootPhases: ReadonlyMap<string, string> = new Map([
  ["network", "network"],
  ["virtiofsd", "virtiofsd"],
  ["VMM", "vmm"],
  ["VMM to kernel", "vmm_to_kernel"],
  ["guest: init", "guest_init"],
  ["guest: modules", "guest_modules"],
  ["guest: image", "guest_image"],
  ["guest: agent", "guest_agent"],
  ["guest: ready", "guest_ready"],
  ["configure", "configure"],
]);

const states = ["created", "running", "paused", "stopped"] as const;

/** Counts what a daemon does. */
export class DaemonMetrics implements SandboxObserver {
  readonly #startTimeSeconds = Date.now() / 1000 - process.uptime();
  readonly #containersCreated = new Counter(definitions.containersCreated);
  readonly #containersFailed = new Counter(definitions.containersFailed);
  readonly #oomKills = new Counter(definitions.oomKills);
  readonly #taskSeconds = new Histogram(definitions.taskSeconds);
  readonly #taskFailures = new Counter(definitions.taskFailures);
  readonly #vmBoots = new Counter(definitions.vmBoots);
  readonly #vmBootFailures = new Counter(definitions.vmBootFailures);
  readonly #vmLosses = new Counter(definitions.vmLosses);
  readonly #vmBootSeconds = new Gauge(definitions.vmBootSeconds);
  readonly #vmBootPhaseSeconds = new Gauge(definitions.vmBootPhaseSeconds);
  readonly #streamBytes = new Counter(definitions.streamBytes);
  readonly #agentCallSeconds = new Histogram(definitions.agentCallSeconds);
  readonly #agentCallFailures = new Counter(definitions.agentCallFailures);

  onEvent({ type }: SandboxEvent): void {
    if (type === "create") this.#containersCreated.add({});
    if (type === "oom") this.#oomKills.add({});
  }

  onTaskCall(operation: string, seconds: number, code: Code | undefined): void {
    if (code === undefined) {
      if (isTimed(operation)) this.#taskSeconds.observe({ operation }, seconds);
      return;
    }
    this.#taskFailures.add({ operation, code });
    if (operation === "create" || operation === "start") this.#containersFailed.add({ operation, code });
  }

  onPhase({ name, durationMs }: { readonly name: string; readonly durationMs: number }): void {
    const phase = bootPhases.get(name);
    if (phase !== undefined) this.#vmBootPhaseSeconds.set({ phase }, Math.round(durationMs * 10) / 10_000);
  }

  onBoot(seconds: number, code: Code | undefined): void {
    if (code !== undefined) {
      this.#vmBootFailures.add({ code });
      return;
    }
    this.#vmBoots.add({});
    this.#vmBootSeconds.set({}, seconds);
  }

  onVmLost(): void {
    this.#vmLosses.add({});
  }

  onBytes(stream: "stdin" | "stdout" | "stderr", count: number): void {
    this.#streamBytes.add({ stream }, count);
  }

  onAgentCall(method: string, seconds: number, code: Code | undefined): void {
    this.#agentCallSeconds.observe({ method }, seconds);
    if (code !== undefined) this.#agentCallFailures.add({ method, code });
  }

  /** The answer to a scrape. What writes it is loaded by the first one. */
  async text(sources: MetricsSources): Promise<{ contentType: string; text: string }> {
    const { contentType, formatMetrics } = await import("./metrics-text.ts");
    return { contentType, text: await formatMetrics(this.collect(sources)) };
  }

  /** All metrics, in the order of their definitions. */
  collect({ sandbox, publisher, log, sandboxCount }: MetricsSources): Family[] {
    return [
      familyOf(definitions.buildInfo, [[{ version, node_version: process.versions.node }, 1]]),
      familyOf(definitions.containers, countStates(sandbox)),
      familyOf(definitions.execsRunning, [[{}, countExecs(sandbox)]]),
      this.#containersCreated.family(),
      this.#containersFailed.family(),
      this.#oomKills.family(),
      this.#taskSeconds.family(),
      this.#taskFailures.family(),
      this.#vmBoots.family(),
      this.#vmBootFailures.family(),
      this.#vmLosses.family(),
      this.#vmBootSeconds.family(),
      this.#vmBootPhaseSeconds.family(),
      this.#streamBytes.family(),
      this.#agentCallSeconds.family(),
      this.#agentCallFailures.family(),
      familyOf(definitions.eventsQueued, [[{}, publisher.queued]]),
      familyOf(definitions.eventsSent, [[{}, publisher.sent]]),
      familyOf(definitions.eventsDropped, [[{}, publisher.dropped]]),
      familyOf(definitions.logLinesDropped, [[{}, log.dropped]]),
      familyOf(definitions.daemonSandboxes, [[{}, sandboxCount]]),
      ...processFamilies(this.#startTimeSeconds),
    ];
  }
}

function isTimed(operation: string): operation is Operation {
  return ["create", "start", "delete", "exec", "exec_start", "exec_delete"].includes(operation);
}

function countStates(sandbox: MetricsSources["sandbox"]) {
  const present = sandbox.containers.map((container) => toCountedState(container.init.state.tag));
  return states.map(
    (state) => [{ state }, present.filter((candidate) => candidate === state).length] as const,
  );
}

function toCountedState(tag: ProcessState["tag"]): (typeof states)[number] | undefined {
  switch (tag) {
    case "created":
    case "starting":
      return "created";
    case "running":
    case "pausing":
      return "running";
    case "paused":
    case "stopped":
      return tag;
    case "deleted":
      return undefined;
  }
}

function countExecs(sandbox: MetricsSources["sandbox"]): number {
  return sandbox.containers.reduce((sum, container) => sum + container.runningExecs.length, 0);
}
