import type { TaskClient } from "../client/task-client.ts";
import type { ShownFile } from "./stand-in.ts";

/**
 * The files of /proc by which a container's processes are seen on the host, the last process first: a tmpfs lists in the
 * reverse order of making.
 */
export async function processFiles(client: TaskClient): Promise<ShownFile[]> {
  const { processes, bootTimeUnixSeconds } = await client.showProcesses();
  return [
    { name: "stat", content: `btime ${bootTimeUnixSeconds}\n` },
    ...processes
      .toSorted((a, b) => b.pid - a.pid)
      .flatMap(({ pid, stat, status, commandLine }) => [
        { name: `${pid}/stat`, content: stat },
        { name: `${pid}/status`, content: status },
        { name: `${pid}/cmdline`, content: commandLine },
        // The guest has no security labels.
        { name: `${pid}/attr/current`, content: "" },
      ]),
  ];
}
