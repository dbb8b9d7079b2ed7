import { counter, gauge, histogram } from "../base/metrics.ts";

const taskBuckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const callBuckets = [0.001, 0.0025, 0.01, 0.05, 0.25, 1, 5, 30];

/**
 * Every metric of a daemon, in the order of its answer. `docs/metrics.md` is generated from it
 * (`scripts/generate-metrics-docs.ts`). No label holds an id: the daemon stands for one sandbox.
 */
export const definitions = {
  buildInfo: gauge("caisson_build_info", "Always 1; the versions are in the labels.", [
    "version",
    "node_version",
  ]),
  containers: gauge("caisson_containers", "Containers by the state of their first process.", ["state"]),
  execsRunning: gauge("caisson_execs_running", "Processes started by exec that have not ended."),
  containersCreated: counter("caisson_containers_created_total", "Containers that were created."),
  containersFailed: counter(
    "caisson_containers_failed_total",
    "Containers that could not be created or started, by the kind of the error.",
    ["operation", "code"],
  ),
  oomKills: counter(
    "caisson_oom_kills_total",
    "Processes killed by the guest's kernel because their container had used up its memory.",
  ),
  taskSeconds: histogram(
    "caisson_task_duration_seconds",
    "How long calls of the task API took that succeeded: create, start and delete of containers; exec (which registers a process), exec_start and exec_delete.",
    taskBuckets,
    ["operation"],
  ),
  taskFailures: counter(
    "caisson_task_failures_total",
    "Calls of the task API that failed, by the kind of the error.",
    ["operation", "code"],
  ),
  vmBoots: counter("caisson_vm_boots_total", "VMs that booted up to the configured agent."),
  vmBootFailures: counter("caisson_vm_boot_failures_total", "VMs that failed to boot.", ["code"]),
  vmLosses: counter(
    "caisson_vm_losses_total",
    "VMs that ended without having been told to, with everything in them.",
  ),
  vmBootSeconds: gauge("caisson_vm_boot_seconds", "How long the last boot took that succeeded."),
  vmBootPhaseSeconds: gauge(
    "caisson_vm_boot_phase_seconds",
    "How long each part of the last boot took; network, virtiofsd and vmm overlap with other parts of a create.",
    ["phase"],
  ),
  streamBytes: counter("caisson_stream_bytes_total", "Bytes copied between the guest and the client.", [
    "stream",
  ]),
  agentCallSeconds: histogram(
    "caisson_agent_call_duration_seconds",
    "How long the guest's agent took to answer a call, well or not.",
    callBuckets,
    ["method"],
  ),
  agentCallFailures: counter(
    "caisson_agent_call_failures_total",
    "Calls to the guest's agent that failed, by the kind of the error.",
    ["method", "code"],
  ),
  eventsQueued: gauge("caisson_events_queued", "Events that containerd has not taken yet."),
  eventsSent: counter("caisson_events_sent_total", "Events that containerd has taken."),
  eventsDropped: counter(
    "caisson_events_dropped_total",
    "Events that were given up: containerd was away for too long, or refused them.",
  ),
  logLinesDropped: counter(
    "caisson_log_lines_dropped_total",
    "Log lines that were dropped: nobody read them, or the file was full.",
  ),
  daemonSandboxes: gauge(
    "caisson_daemon_sandboxes",
    'Sandboxes that this daemon serves; the metrics "process_…" are of all of them.',
  ),
  cpuSeconds: counter("process_cpu_seconds_total", "CPU time of the daemon itself, user and system."),
  startTime: gauge("process_start_time_seconds", "When the daemon was started, in Unix time."),
  residentBytes: gauge(
    "process_resident_memory_bytes",
    "Resident memory of the daemon itself; what is the program's is shared with the other daemons.",
  ),
  virtualBytes: gauge("process_virtual_memory_bytes", "Address space of the daemon itself."),
  openFds: gauge("process_open_fds", "File descriptors that the daemon has open."),
  maxFds: gauge("process_max_fds", "File descriptors that the daemon may have open."),
} as const;
