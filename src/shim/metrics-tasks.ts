import { timed } from "../base/metrics.ts";
import type { Handlers, MethodTable } from "../ttrpc/method.ts";
import type { DaemonMetrics } from "./metrics.ts";

/** The same handlers, each call of which is counted. Calls that wait for the end of a process are not. */
export function countCalls<Table extends MethodTable>(
  table: Table,
  handlers: Handlers<Table>,
  metrics: DaemonMetrics,
): Handlers<Table> {
  const counted = Object.entries(handlers).map(([name, handler]) => {
    if (table[name]?.waits === true) return [name, handler];
    const run = handler as (...args: unknown[]) => unknown;
    const countedRun = (...args: unknown[]) =>
      timed(
        async () => run(...args),
        (seconds, error) => metrics.onTaskCall(operationOf(name, args[0]), seconds, error),
      );
    return [name, countedRun];
  });
  // Every handler is replaced by one of the same signature, which Object.fromEntries cannot say.
  return Object.fromEntries(counted) as Handlers<Table>;
}

/** Start and Delete are about a container, or about an exec of it. */
function operationOf(handler: string, request: unknown): string {
  const isOfExec =
    (handler === "start" || handler === "delete") &&
    typeof request === "object" &&
    request !== null &&
    "execId" in request &&
    request.execId !== "";
  return isOfExec ? `exec_${handler}` : toSnakeCase(handler);
}

function toSnakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
