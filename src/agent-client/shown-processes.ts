import type { caisson } from "../gen/agent.js";

/** The processes of a container as its own /proc would show them. */
export interface ShownProcesses {
  readonly processes: readonly ShownProcess[];
  /** To which the start times in `stat` are relative. */
  readonly bootTimeUnixSeconds: number;
}

/** In the form of proc_pid_stat(5) and so on, with the process ids of the container. */
export interface ShownProcess {
  readonly pid: number;
  readonly stat: string;
  readonly status: string;
  /** Words that each end with NUL. */
  readonly commandLine: Uint8Array;
}

const maxProcesses = 1024;
const maxCommandLineBytes = 4096;
/** Linux has up to 2^22. */
const maxPid = 4_194_304;
const maxStatusLines = 64;

/** The guest's answer, of which those are left out that programs of the host might stumble over. */
export function toShownProcesses(response: caisson.agent.v1.ShowProcessesResponse): ShownProcesses {
  const seen = new Set<number>();
  const processes = response.processes.slice(0, maxProcesses).map(({ pid, stat, status, commandLine }) => ({
    pid: pid ?? 0,
    stat: stat ?? "",
    status: status ?? "",
    commandLine: (commandLine ?? new Uint8Array()).subarray(0, maxCommandLineBytes),
  }));
  const isUsable = ({ pid, stat, status }: ShownProcess) =>
    pid > 0 && pid <= maxPid && !seen.has(pid) && seen.add(pid) && isStat(stat) && isStatus(status);
  return {
    processes: processes.filter(isUsable),
    bootTimeUnixSeconds: response.bootTimeUnixSeconds ?? 0,
  };
}

function isStat(text: string): boolean {
  return /^\d{1,10} \([^\p{Cc}]{0,64}\) [A-Za-z](?: -?\d{1,20}){20,60}\n$/u.test(text);
}

/** Four user and group ids each are what readers rely on. */
function isStatus(text: string): boolean {
  const lines = text.split("\n");
  const isLine = (line: string) => /^[A-Za-z_]{1,32}:[^\p{Cc}]{0,512}$/u.test(line.replaceAll("\t", " "));
  return (
    lines.pop() === "" &&
    lines.length <= maxStatusLines &&
    lines.every(isLine) &&
    ["Uid", "Gid"].every((name) =>
      lines.some((line) => line.startsWith(`${name}:`) && /^\w+:(?:\t\d{1,10}){4}$/.test(line)),
    )
  );
}
