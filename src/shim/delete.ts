import { readFile, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { isAbsolute, join } from "node:path";
import { describe, RuntimeError } from "../base/errors.ts";
import { removeFileAndTorn } from "../base/files.ts";
import { checkId } from "../base/ids.ts";
import { isAlive, type ProcessIdentity, signalProcess } from "../base/processes.ts";
import { containerd } from "../gen/bootstrap.js";
import { int64 } from "../gen/int64.ts";
import type { Flags } from "./flags.ts";
import { groupOf } from "./group.ts";
import { metricsSocketPath } from "./metrics-socket.ts";
import type { ShimParts } from "./parts.ts";
import { isShared, readRecord, removeRecord, type ShimRecord } from "./record.ts";
import { isNobodyThere, socketPath } from "./socket-path.ts";

/** containerd kills us after 5 s; all waits together stay below 3 s. */
const removeTimeoutMs = 1500;
const endTimeoutMs = 1000;
const killTimeoutMs = 150;

/** 128 + SIGKILL: what containerd reports for a task whose shim is gone. */
const killedExitStatus = 137;

/**
 * The `delete` command: makes sure that nothing of the container is left on the host, and returns the bytes of the
 * `DeleteResponse`. Works from namespace and id alone, in every state of decay; twice is fine. Other containers of a
 * sandbox that lives are not touched.
 */
export async function deleteContainer(flags: Flags, parts: ShimParts): Promise<Uint8Array> {
  const namespace = checkId("namespace", flags.namespace);
  const containerId = checkId("container id", flags.id);
  const bundle = flags.bundle === "" ? currentDirectory() : flags.bundle;
  const { stateDirectory } = await parts.loadConfig();
  const own = await readRecord(stateDirectory, namespace, containerId);
  const sandboxId = own?.sandboxId ?? (await sandboxIdIn(bundle, containerId));
  // Containers that containerd added to a running sandbox by itself have no record of their own.
  const record = own ?? (await readRecord(stateDirectory, namespace, sandboxId));
  const standardPath = () => socketPath({ address: flags.address, namespace, sandboxId, stateDirectory });
  const path = record?.socketPath ?? (await readAddress(bundle)) ?? standardPath();

  const isAlone = async () =>
    record !== undefined && !(await isShared(stateDirectory, namespace, containerId, record));
  const goesOn = await endDaemon(path, containerId, record, isAlone);
  if (!goesOn) {
    await removeFileAndTorn(path);
    await rm(metricsSocketPath(stateDirectory, namespace, sandboxId), { force: true });
    if (existsSync(join(stateDirectory, namespace, sandboxId))) {
      await parts.removeSandbox({ stateDirectory, namespace, sandboxId });
    }
  }
  if (bundle !== undefined && isAbsolute(bundle)) await unmountRootfs(bundle, parts);
  await removeRecord(stateDirectory, namespace, containerId);
  return encodeResponse(new Date());
}

/**
 * Has the daemon forget the container. Returns true when it goes on for other containers, false once it is gone for
 * sure, by force if need be.
 */
async function endDaemon(
  path: string,
  containerId: string,
  record: ShimRecord | undefined,
  isAlone: () => Promise<boolean>,
): Promise<boolean> {
  let isHanging = false;
  if (existsSync(path)) {
    const { connectShim } = await import("./shim-client.ts");
    try {
      await using shim = await connectShim(path);
      if ((await shim.remove(containerId, removeTimeoutMs)) > 0) return true;
      await shim.waitForEnd(endTimeoutMs);
    } catch (error) {
      // A daemon that does not answer is ended by force, but not when it holds other containers than this one.
      isHanging = !isNobodyThere(error);
      if (isHanging && !(await isAlone())) throw doesNotAnswer(containerId, error);
    }
  }
  // One that can have other sandboxes goes on without this one, whose processes are in the journal.
  if (record !== undefined && (isHanging || record.servesMany !== true)) await killDaemon(record.daemon);
  return false;
}

function doesNotAnswer(containerId: string, cause: unknown): RuntimeError {
  return new RuntimeError(
    "unavailable",
    `Cannot delete container "${containerId}": its daemon does not answer`,
    { cause },
  );
}

async function killDaemon(daemon: ProcessIdentity): Promise<void> {
  // It closes its socket just before it exits. The end of a process that is no child of ours can only be asked for.
  if (await isGoneWithin(daemon, killTimeoutMs)) return;
  signalProcess(daemon, "SIGKILL");
  await isGoneWithin(daemon, killTimeoutMs);
}

async function isGoneWithin(daemon: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  for (const end = performance.now() + timeoutMs; isAlive(daemon); await sleep(5)) {
    if (performance.now() > end) return false;
  }
  return true;
}

async function unmountRootfs(bundle: string, parts: ShimParts): Promise<void> {
  const rootfs = join(bundle, "rootfs");
  // Most often nothing is mounted any more; looking is cheaper than loading what unmounts.
  const mounts = await readFile("/proc/self/mountinfo", "latin1");
  if (mounts.includes(` ${rootfs}`)) await parts.unmountAllBelow(rootfs);
}

/** What the bundle says of its sandbox; one that is gone or cannot be read says nothing. */
function sandboxIdIn(bundle: string | undefined, containerId: string): Promise<string> {
  return bundle === undefined
    ? Promise.resolve(containerId)
    : groupOf(bundle, containerId).catch(() => containerId);
}

async function readAddress(bundle: string | undefined): Promise<string | undefined> {
  if (bundle === undefined) return undefined;
  try {
    const text = (await readFile(join(bundle, "address"), "utf8")).trim();
    return text.startsWith("unix:///") ? text.slice("unix://".length) : undefined;
  } catch {
    // Gone, or never written; the path follows from the ids.
    return undefined;
  }
}

function currentDirectory(): string | undefined {
  try {
    return process.cwd();
  } catch (error) {
    if (describe(error).includes("ENOENT")) return undefined;
    throw error;
  }
}

function encodeResponse(exitedAt: Date): Uint8Array {
  const milliseconds = exitedAt.getTime();
  return containerd.task.v2.DeleteResponse.encode({
    exitStatus: killedExitStatus,
    exitedAt: {
      seconds: int64(BigInt(Math.floor(milliseconds / 1000))),
      nanos: (milliseconds % 1000) * 1_000_000,
    },
  }).finish();
}
