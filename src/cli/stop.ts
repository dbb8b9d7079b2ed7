import { constants } from "node:os";
import { ignoreCode, RuntimeError } from "../base/errors.ts";
import { scope, within } from "../base/scope.ts";
import type { ContainerRecord } from "./container-store.ts";
import { type Host, requireRoot, shimOf } from "./host.ts";
import { type Keeper, takeKeeper } from "./keeper.ts";
import { type Liveness, probe } from "./liveness.ts";
import { deleteShim } from "../client/shim-program.ts";
import { finishAbandoned, removeUnfinished } from "./task-end.ts";
import type { TaskClient } from "../client/task-client.ts";

const { SIGKILL } = constants.signals;

// The daemon kills a VM that does not end within seconds, besides the time that the output may take; after that it is
// ended by force.
const killTimeoutMs = 15_000;
// Whoever waited for the container has its files to put in order; with a slow reader of the output it takes longer.
const keeperTimeoutMs = 30_000;
const patienceMs = 5_000;
// `rm -f` wants nothing of the container any more, so output that nobody reads is not waited for.
const forceKillTimeoutMs = 2_000;
const forcePatienceMs = 1_000;

/** `caisson stop`: the stop signal, and after `seconds` SIGKILL. Already stopped is success. */
export async function stopContainer(host: Host, containerId: string, seconds: number): Promise<void> {
  requireRoot();
  const record = await host.containers.load(containerId);
  const live = await probe(record, host.containers.paths(containerId).directory);
  if (live.tag === "exited") return;
  if (live.tag === "creating") throw isBeingCreated("stop", containerId);
  if (live.tag === "running") {
    await using client = live.client;
    await endProcess(host, containerId, client, { signal: record.stopSignal, graceMs: seconds * 1000 });
  }
  // It has ended, and whoever shows its output to a slow reader may go on with that.
  await using keeper = await becomeKeeper(host, containerId, "stop", patienceMs).catch(
    ignoreCode("deadline_exceeded"),
  );
  if (keeper === undefined) return;
  const current = await currentRecord(host, record);
  if (current !== undefined) await finishAbandoned(host, current);
}

/** `caisson rm`; with `force` a running one is killed. */
export async function removeContainer(host: Host, containerId: string, force: boolean): Promise<void> {
  requireRoot();
  const record = await host.containers.load(containerId);
  const live = await probe(record, host.containers.paths(containerId).directory);
  if (live.tag === "creating") throw isBeingCreated("remove", containerId);
  if (live.tag === "running") await killFirst(host, containerId, live, force);
  const hurry = force ? { hurryAfterMs: forcePatienceMs } : {};
  await using keeper = await becomeKeeper(host, containerId, "remove", keeperTimeoutMs, hurry);
  const current = await currentRecord(host, record);
  if (keeper === undefined || current === undefined) return;
  // The record of an exited one says that nothing but its files is left.
  if (current.state.tag === "exited") await host.containers.remove(containerId);
  else await removeUnfinished(host, containerId);
}

async function killFirst(
  host: Host,
  containerId: string,
  live: Liveness & { tag: "running" },
  force: boolean,
) {
  await using client = live.client;
  if (!force) {
    throw new RuntimeError(
      "failed_precondition",
      `Cannot remove container "${containerId}": it is running; stop it first, or use -f`,
    );
  }
  await endProcess(host, containerId, client, { signal: SIGKILL, graceMs: forceKillTimeoutMs });
}

/** Resolves when the container's process has ended. A daemon that cannot bring that about is ended itself. */
async function endProcess(
  host: Host,
  containerId: string,
  client: TaskClient,
  how: { readonly signal: number; readonly graceMs: number },
): Promise<void> {
  const ended = client.wait("").then(
    () => "ended" as const,
    // The daemon is gone, and with it everything.
    () => "ended" as const,
  );
  const signalled = async (signal: number, graceMs: number) => {
    const all = signal === SIGKILL;
    const sent = client
      .kill("", signal, { all })
      .catch(ignoreCode("not_found", "unavailable", "deadline_exceeded"));
    return within(Promise.race([ended, sent.then(() => ended)]), graceMs, "late" as const);
  };
  if ((await signalled(how.signal, how.graceMs)) === "ended") return;
  const timeoutMs = killTimeoutMs + host.config.drainTimeoutMs;
  if (how.signal !== SIGKILL && (await signalled(SIGKILL, timeoutMs)) === "ended") return;
  await deleteShim(shimOf(host, containerId));
}

/** Undefined when the container is gone. @throws deadline_exceeded */
async function becomeKeeper(
  host: Host,
  containerId: string,
  action: string,
  timeoutMs: number,
  options: { readonly hurryAfterMs?: number } = {},
): Promise<Keeper | undefined> {
  const what = `to ${action} container "${containerId}", which another caisson still serves`;
  using limit = scope(undefined, timeoutMs, what);
  const { directory } = host.containers.paths(containerId);
  return await takeKeeper(directory, { ...options, signal: limit.signal });
}

/** The container that we mean, not one that got its id since. */
async function currentRecord(host: Host, record: ContainerRecord): Promise<ContainerRecord | undefined> {
  const current = await host.containers.find(record.id);
  return current?.createdAt === record.createdAt ? current : undefined;
}

function isBeingCreated(action: string, containerId: string): RuntimeError {
  return new RuntimeError(
    "failed_precondition",
    `Cannot ${action} container "${containerId}": another caisson is creating it`,
  );
}
