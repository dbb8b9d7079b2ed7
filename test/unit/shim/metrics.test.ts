import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import type { Container, ProcessState } from "../../../src/sandbox/model.ts";
import { DaemonMetrics, type MetricsSources } from "../../../src/shim/metrics.ts";
import { definitions } from "../../../src/shim/metrics-definitions.ts";
import { metricsSocketPath } from "../../../src/shim/metrics-socket.ts";
import { countCalls } from "../../../src/shim/metrics-tasks.ts";
import { taskMethods } from "../../../src/shim/task-api.ts";
import type { Handlers } from "../../../src/ttrpc/method.ts";

const all = Object.values(definitions);

const idle: MetricsSources = {
  sandbox: { containers: [] },
  publisher: { queued: 0, sent: 0, dropped: 0 },
  log: { dropped: 0 },
  sandboxCount: 1,
};

function containerIn(tag: ProcessState["tag"], execs: number): Container {
  // Only what is counted.
  return { init: { state: { tag } }, runningExecs: Array(execs).fill({}) } as unknown as Container;
}

/** The lines of the text form that begin with a name. */
async function lines(metrics: DaemonMetrics, name: string, sources = idle): Promise<string[]> {
  const { text } = await metrics.text(sources);
  return text.split("\n").filter((line) => line.startsWith(name));
}

describe("definitions", () => {
  test.each(all.map((definition) => [definition.name, definition] as const))(
    "%s keeps to the conventions of Prometheus",
    (name, { type, help, labels, buckets }) => {
      expect(name).toMatch(/^(caisson|process)(_[a-z]+)+$/);
      expect(name.endsWith("_total")).toBe(type === "counter");
      expect(name).not.toMatch(/_(ms|millis\w*|micros\w*|mib|kib|count|sum|bucket)(_|$)/);
      expect(help).toMatch(/^[A-Z1].*\.$/);
      expect(help).not.toMatch(/[\n\\|]/);
      for (const label of labels) expect(label).toMatch(/^(?!le$)[a-z]+(_[a-z]+)*$/);
      // Ids would make a series for every container that ever was.
      expect(labels.filter((label) => /(^|_)(id|name|container|pid)$/.test(label))).toEqual([]);
      expect(buckets).toEqual([...new Set(buckets)].toSorted((a, b) => a - b));
      expect(buckets.length > 0).toBe(type === "histogram");
    },
  );

  test("no name is used twice", () => {
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
  });

  test("docs/metrics.md is fresh", async () => {
    const script = join(import.meta.dirname, "../../../scripts/generate-metrics-docs.ts");
    await expect(promisify(execFile)(process.execPath, [script, "--check"])).resolves.toBeDefined();
  });
});

describe("DaemonMetrics", () => {
  test("collect() gives every metric that is defined, in the order of the definitions", () => {
    const families = new DaemonMetrics().collect(idle);

    expect(families.map(({ definition }) => definition)).toEqual(all);
  });

  test("text() is the text form: help and type before the samples", async () => {
    const { contentType, text } = await new DaemonMetrics().text(idle);

    expect(contentType).toMatch(/^text\/plain; version=0\.0\.4/);
    expect(text).toContain(
      "# HELP caisson_containers_created_total Containers that were created.\n# TYPE caisson_containers_created_total counter\ncaisson_containers_created_total 0\n",
    );
    expect(text.endsWith("\n")).toBe(true);
  });

  test("containers are counted by state, and execs", async () => {
    const containers = [
      containerIn("starting", 0),
      containerIn("running", 2),
      containerIn("pausing", 1),
      containerIn("paused", 0),
      containerIn("stopped", 0),
      containerIn("deleted", 0),
    ];
    const sources = { ...idle, sandbox: { containers } };

    expect(await lines(new DaemonMetrics(), "caisson_containers{", sources)).toEqual([
      'caisson_containers{state="created"} 1',
      'caisson_containers{state="running"} 2',
      'caisson_containers{state="paused"} 1',
      'caisson_containers{state="stopped"} 1',
    ]);
    expect(await lines(new DaemonMetrics(), "caisson_execs", sources)).toEqual(["caisson_execs_running 3"]);
  });

  test("calls that succeed are timed, calls that fail are counted by their kind", async () => {
    const metrics = new DaemonMetrics();

    metrics.onTaskCall("create", 0.3, undefined);
    metrics.onTaskCall("kill", 0.3, undefined);
    metrics.onTaskCall("start", 0.3, "not_found");
    metrics.onTaskCall("exec_start", 0.3, "unavailable");

    expect(await lines(metrics, "caisson_task_duration_seconds_count")).toEqual([
      'caisson_task_duration_seconds_count{operation="create"} 1',
    ]);
    expect(await lines(metrics, "caisson_task_failures")).toEqual([
      'caisson_task_failures_total{operation="start",code="not_found"} 1',
      'caisson_task_failures_total{operation="exec_start",code="unavailable"} 1',
    ]);
    expect(await lines(metrics, "caisson_containers_failed")).toEqual([
      'caisson_containers_failed_total{operation="start",code="not_found"} 1',
    ]);
  });

  test("boots, their phases, bytes and calls of the agent", async () => {
    const metrics = new DaemonMetrics();

    metrics.onBoot(3, "deadline_exceeded");
    metrics.onBoot(0.5, undefined);
    metrics.onVmLost();
    metrics.onPhase({ name: "VMM to kernel", durationMs: 25.1 });
    metrics.onPhase({ name: "guest: ready", durationMs: 660.6 });
    metrics.onBytes("stdout", 7);
    metrics.onBytes("stdout", 3);
    metrics.onAgentCall("Ping", 0.02, undefined);
    metrics.onAgentCall("Ping", 30, "deadline_exceeded");

    expect(await lines(metrics, "caisson_vm_")).toEqual([
      "caisson_vm_boots_total 1",
      'caisson_vm_boot_failures_total{code="deadline_exceeded"} 1',
      "caisson_vm_losses_total 1",
      "caisson_vm_boot_seconds 0.5",
      'caisson_vm_boot_phase_seconds{phase="vmm_to_kernel"} 0.0251',
      'caisson_vm_boot_phase_seconds{phase="guest_ready"} 0.6606',
    ]);
    expect(await lines(metrics, "caisson_stream")).toEqual([
      'caisson_stream_bytes_total{stream="stdout"} 10',
    ]);
    expect(await lines(metrics, "caisson_agent_call_duration_seconds_count")).toEqual([
      'caisson_agent_call_duration_seconds_count{method="Ping"} 2',
    ]);
    expect(await lines(metrics, "caisson_agent_call_failures")).toEqual([
      'caisson_agent_call_failures_total{method="Ping",code="deadline_exceeded"} 1',
    ]);
  });

  test("phases that the guest makes up are left out", async () => {
    const metrics = new DaemonMetrics();

    for (let count = 0; count < 100; count++) metrics.onPhase({ name: `guest: ${count}`, durationMs: 1 });
    metrics.onPhase({ name: "mounts", durationMs: 1 });

    expect(await lines(metrics, "caisson_vm_boot_phase_seconds")).toEqual([]);
  });

  test("process_* have values of now", async () => {
    const before = Date.now() / 1000;
    const { text } = await new DaemonMetrics().text(idle);
    const value = (name: string) => Number(new RegExp(`^${name} (.+)$`, "m").exec(text)?.[1]);

    expect(value("process_cpu_seconds_total")).toBeGreaterThan(0);
    expect(value("process_resident_memory_bytes")).toBeGreaterThan(1e7);
    expect(value("process_virtual_memory_bytes")).toBeGreaterThan(value("process_resident_memory_bytes"));
    expect(value("process_open_fds")).toBeGreaterThan(2);
    expect(value("process_max_fds")).toBeGreaterThan(value("process_open_fds"));
    expect(value("process_start_time_seconds")).toBeLessThan(before);
    expect(value("process_start_time_seconds")).toBeGreaterThan(before - 3600);
  });
});

test("countCalls() tells execs from containers, passes results on, and leaves Wait alone", async () => {
  const calls: unknown[] = [];
  const metrics = {
    onTaskCall: (operation: string, _: number, error?: string) => calls.push([operation, error]),
  };
  const handlers: Handlers<typeof taskMethods> = {
    start: () => ({ pid: 5 }),
    delete: () => {
      throw new RuntimeError("failed_precondition", "it runs");
    },
    closeIo: () => ({}),
    wait: () => ({ exitStatus: 1 }),
  };

  const counted = countCalls(taskMethods, handlers, metrics as unknown as DaemonMetrics);

  const call = { signal: new AbortController().signal };
  const request = (execId: string) => ({ id: "a", execId }) as never;
  expect(await counted.start?.(request(""), call)).toEqual({ pid: 5 });
  expect(await counted.start?.(request("e"), call)).toEqual({ pid: 5 });
  await expect(counted.delete?.(request("e"), call)).rejects.toThrow("it runs");
  await counted.closeIo?.(request(""), call);
  expect(await counted.wait?.(request(""), call)).toEqual({ exitStatus: 1 });
  expect(calls).toEqual([
    ["start", undefined],
    ["exec_start", undefined],
    ["exec_delete", "failed_precondition"],
    ["close_io", undefined],
  ]);
});

test("metricsSocketPath() depends on both ids and is short enough whatever they are", () => {
  const path = metricsSocketPath("/run/caisson", "n".repeat(76), "s".repeat(76));

  expect(path).toMatch(/^\/run\/caisson\/\.shims\/[0-9a-f]{32}\.metrics$/);
  expect(metricsSocketPath("/run/caisson", "a", "b")).not.toBe(metricsSocketPath("/run/caisson", "b", "a"));
});
