import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, ignoreCode, RuntimeError } from "../base/errors.ts";
import { ignore } from "../base/files.ts";
import { isAlive, type ProcessIdentity, signalProcess } from "../base/processes.ts";
import { within } from "../base/scope.ts";
import { formatConfig } from "../client/settings.ts";
import { deleteShim } from "../client/shim-program.ts";
import type { TaskClient } from "../client/task-client.ts";
import { removeCgroup } from "./cgroup.ts";
import { type Host, requireRoot, shimOf } from "./host.ts";
import { probe } from "./probe.ts";
import { type ContainerRecord, doesNotExist } from "./store.ts";

const { SIGKILL } = constants.signals;

/** The daemon kills a VM whose process does not end; after that the daemon is ended by force. */
const killTimeoutMs = 15_000;
/** For a proxy to write out what it has and end as its process did. */
const proxyTimeoutMs = 2_000;

/** `delete`. With `force` whatever is left under the id goes, and nothing there is success. */
export async function deleteContainer(host: Host, id: string, force: boolean): Promise<number> {
  requireRoot();
  const record = await findRecord(host, id, force);
  if (record === undefined) {
    if (!force) throw doesNotExist();
    if (await host.containers.hasDirectory(id)) await endContainer(host, id, undefined);
    return 0;
  }
  const { status, client } = await probe(host, record).catch((error: unknown) => {
    // A daemon that does not answer is ended by force.
    if (force) return { status: "stopped", client: undefined } as const;
    throw error;
  });
  if (status !== "stopped" && status !== "created" && !force) {
    await client?.[Symbol.asyncDispose]();
    throw new RuntimeError(
      "failed_precondition",
      `cannot delete container ${id} that is not stopped: ${status}`,
    );
  }
  if (status !== "stopped" && client !== undefined) await killFirst(client);
  await endContainer(host, id, client);
  return 0;
}

/** With `force` a record that cannot be read counts as none. */
async function findRecord(host: Host, id: string, force: boolean): Promise<ContainerRecord | undefined> {
  return await host.containers.find(id).catch((error: unknown) => {
    if (force && codeOf(error) === "internal") return undefined;
    throw error;
  });
}

async function killFirst(client: TaskClient): Promise<void> {
  const ended = client.wait("").then(
    () => {},
    () => {
      // The daemon is gone, and with it everything.
    },
  );
  const sent = client
    .kill("", SIGKILL, { all: true })
    .catch(ignoreCode("not_found", "unavailable", "deadline_exceeded"));
  await within(
    sent.then(() => ended),
    killTimeoutMs,
    undefined,
  );
}

/**
 * Removes a container whose process has ended, or whatever is left of one: the daemon with its VM, the proxies, the
 * directory. Closes the client.
 */
export async function endContainer(host: Host, id: string, client: TaskClient | undefined): Promise<void> {
  // Before the daemon goes: a proxy that still hears how its process ended passes that on.
  const proxies = (await proxiesOf(host, id)).filter(({ pid }) => pid !== process.pid);
  if (client !== undefined) {
    await within(allGone(proxies), proxyTimeoutMs, undefined);
    try {
      await client.delete("");
      await client.shutdown();
    } catch {
      // It did not go the gentle way; `deleteShim` ends the daemon by force and reports what it cannot do.
    }
    await client[Symbol.asyncDispose]();
  }
  if (await wasStarted(host, id)) {
    await mendForDelete(host, id);
    await deleteShim(shimOf(host, id));
  }
  await within(allGone(proxies), proxyTimeoutMs, undefined);
  for (const proxy of proxies) signalProcess(proxy, "SIGKILL");
  await removeCgroup(host.containers.paths(id).cgroups);
  await host.containers.remove(id);
}

/** Those on the host that stand for the container's processes, its first one first; they may have ended. */
export async function proxiesOf(host: Host, id: string): Promise<ProcessIdentity[]> {
  const { execs } = host.containers.paths(id);
  const record = await findRecord(host, id, true);
  const names = ((await readdir(execs).catch(ignore("ENOENT"))) ?? []).filter((name) =>
    name.endsWith(".json"),
  );
  const noted = await Promise.all(
    names.map((name) => readFile(join(execs, name), "utf8").catch(ignore("ENOENT"))),
  );
  return [
    ...(record === undefined ? [] : [record.proxy]),
    ...noted.map(identityIn).filter((identity) => identity !== undefined),
  ];
}

/** Undefined: the file went meanwhile, or was never written to its end. */
function identityIn(text: string | undefined): ProcessIdentity | undefined {
  try {
    return JSON.parse(text ?? "") as ProcessIdentity;
  } catch {
    return undefined;
  }
}

/** They are no children of ours, so their end can only be asked for. */
async function allGone(processes: readonly ProcessIdentity[]): Promise<void> {
  for (const end = performance.now() + proxyTimeoutMs; performance.now() < end; await sleep(5)) {
    if (!processes.some(isAlive)) return;
  }
}

/** Without a directory for a daemon nothing was started yet: a creation died just after it had taken the id. */
async function wasStarted(host: Host, id: string): Promise<boolean> {
  const { shim } = host.containers.paths(id);
  const names = await readdir(shim).catch(ignore("ENOENT"));
  return names !== undefined || (await findRecord(host, id, true)) !== undefined;
}

/** Makes what the shim's delete needs and somebody has removed. */
async function mendForDelete(host: Host, id: string): Promise<void> {
  const { shim, config } = host.containers.paths(id);
  await mkdir(shim, { recursive: true, mode: 0o700 });
  await writeFile(config, formatConfig(host.config), { flag: "wx", mode: 0o600 }).catch(ignore("EEXIST"));
}
