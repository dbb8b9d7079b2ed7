import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ignore, removeDirectory, removeFile } from "../base/files.ts";
import { isAlive, type ProcessIdentity, signalProcess } from "../base/processes.ts";
import { Cleanup } from "../base/cleanup.ts";
import { detachNetwork } from "../network/network.ts";
import { removeNetns } from "../network/netns.ts";
import { unmountAllBelow } from "../storage/mount.ts";
import { removeSharedDir } from "../storage/shared-dir.ts";
import { type JournalEntry, journalName, readJournal } from "./journal.ts";
import { removePodCgroup } from "./pod-cgroup.ts";
import { sandboxPaths } from "./paths.ts";
import { returnUserId } from "./user-ids.ts";

/** How long we wait for killed processes to be gone. */
const reapTimeoutMs = 2_000;

export interface SandboxName {
  readonly stateDirectory: string;
  readonly namespace: string;
  readonly sandboxId: string;
}

/**
 * Releases everything that a sandbox holds on the host, from its name and its journal alone: kills its processes, takes
 * down its network, unmounts, removes its cgroup, gives back its user id, removes its directory. Idempotent; goes on past failures and
 * reports them together. Needs no space on any disk.
 *
 * Must not run while a daemon of the sandbox goes on making things.
 */
export async function removeSandbox({ stateDirectory, namespace, sandboxId }: SandboxName): Promise<void> {
  const paths = sandboxPaths(stateDirectory, namespace, sandboxId);
  const entries = readJournal(paths.directory);
  const owner = ownerName(namespace, sandboxId);
  const cleanup = new Cleanup();
  // In the order of the last line first: each step runs even when one before it failed.
  cleanup.defer("user id", () => {
    for (const { uid, owner: taker = owner } of ofKind(entries, "user"))
      returnUserId(stateDirectory, uid, taker);
  });
  cleanup.defer("cgroup", () => removePodCgroup(ofKind(entries, "cgroup")));
  cleanup.defer("files of the VM", () => removeFilesIn(paths.vm));
  cleanup.defer("network namespace", () => removeNetns(paths.netns));
  for (const { netnsPath } of ofKind(entries, "network")) {
    cleanup.defer(`network ${netnsPath}`, () => detachNetwork({ netnsPath }));
  }
  for (const { path } of ofKind(entries, "rootfs"))
    cleanup.defer(`mounts of ${path}`, () => unmountAllBelow(path));
  const containerIds = ofKind(entries, "container").map(({ containerId }) => containerId);
  cleanup.defer("shared directory", () => removeSharedDir(paths.directory, containerIds));
  cleanup.defer("processes", () => killProcesses(ofKind(entries, "process").map(({ identity }) => identity)));
  await cleanup[Symbol.asyncDispose]();
  // Not after a failure: the journal is what the next attempt goes by.
  await removeStateDirectory(paths.directory);
}

/** How a sandbox is named as the owner of a user id. */
export function ownerName(namespace: string, sandboxId: string): string {
  return `${namespace}/${sandboxId}`;
}

function ofKind<K extends JournalEntry["kind"]>(
  entries: readonly JournalEntry[],
  kind: K,
): Extract<JournalEntry, { kind: K }>[] {
  return entries.filter((entry): entry is Extract<JournalEntry, { kind: K }> => entry.kind === kind);
}

async function killProcesses(identities: readonly ProcessIdentity[]): Promise<void> {
  const alive = identities.filter((identity) => signalProcess(identity, "SIGKILL"));
  const deadline = performance.now() + reapTimeoutMs;
  // They are not our children, so their end does not announce itself to us.
  while (alive.some((identity) => isAlive(identity)) && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const left = alive.filter((identity) => isAlive(identity));
  if (left.length > 0) throw new Error(`Processes ${left.map(({ pid }) => pid).join(", ")} do not die`);
}

/** Only sockets and files that the VM's helpers made; nothing below it is a directory or a mount. */
export async function removeFilesIn(directory: string): Promise<void> {
  const names = (await readdir(directory).catch(ignore("ENOENT"))) ?? [];
  for (const name of names) await removeFile(join(directory, name));
  await removeDirectory(directory);
}

async function removeStateDirectory(directory: string): Promise<void> {
  const names = (await readdir(directory).catch(ignore("ENOENT"))) ?? [];
  // One that was being written when its writer died has another name behind its own.
  const timelines = names.filter((name) => name.startsWith("timeline."));
  for (const name of [...timelines, journalName]) await removeFile(join(directory, name));
  await removeDirectory(directory);
  // The namespace's directory goes with its last sandbox.
  await removeDirectory(dirname(directory)).catch(ignore("ENOTEMPTY", "EEXIST", "EBUSY"));
}
