/**
 * sd_notify(3) across the VM's border: the container has a socket in the guest, and what it says there goes to the socket that
 * our caller's NOTIFY_SOCKET names, as far as a service manager can make use of it.
 */
import { closeSync, constants, lstatSync, openSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { isBind } from "../agent-client/guest-mounts.ts";
import { loadNative } from "../base/native.ts";
import type { TaskClient } from "../client/task-client.ts";
import type { Spec } from "../oci/spec.ts";
import type { Host } from "./host.ts";

/** Assignments that say something of the service. Others name processes and descriptors, which are the guest's. */
const known: ReadonlySet<string> = new Set([
  "READY",
  "RELOADING",
  "STOPPING",
  "STATUS",
  "ERRNO",
  "BUSERROR",
  "EXIT_STATUS",
  "WATCHDOG",
  "EXTEND_TIMEOUT_USEC",
]);
const maxLineBytes = 512;

const { O_DIRECTORY, O_RDONLY } = constants;

/** Where a container finds its notify socket, with runc, conmon and the guest's agent alike. */
const guestDirectory = "/run/notify";
const socketName = "notify.sock";

/**
 * The socket that wants to know what the container says of itself: the caller's NOTIFY_SOCKET, else one that the configuration
 * binds into the container, as `podman --sdnotify=container` has it from conmon.
 */
export function notifySocketOf(environment: Host["environment"], { mounts = [] }: Spec): string | undefined {
  const own = environment["NOTIFY_SOCKET"];
  if (own) return own;
  const bound = mounts.findLast((mount) => mount.destination === guestDirectory && isBind(mount));
  if (bound?.source === undefined) return undefined;
  const path = join(bound.source, socketName);
  return lstatSync(path, { throwIfNoEntry: false })?.isSocket() ? path : undefined;
}

/** Passes on what the container says until it ends. Never rejects: a service manager that does not listen changes nothing. */
export async function relayNotifications(
  client: TaskClient,
  socketPath: string,
  mainPid: number,
): Promise<void> {
  for (;;) {
    const texts = await client.notifications().catch(() => undefined);
    if (texts === undefined) return;
    for (const text of texts) {
      const message = hostNotification(text, mainPid);
      try {
        if (message !== "") send(socketPath, message);
      } catch {
        // The manager is gone, or does not want it.
      }
    }
  }
}

/** By way of its open directory: the kernel takes paths of up to 107 bytes, and Podman's are longer. */
function send(socketPath: string, message: string): void {
  if (socketPath.startsWith("@")) return loadNative().sendDatagram(socketPath, message);
  const directory = openSync(dirname(socketPath), O_RDONLY | O_DIRECTORY);
  try {
    loadNative().sendDatagram(`/proc/self/fd/${directory}/${basename(socketPath)}`, message);
  } finally {
    closeSync(directory);
  }
}

/** What is left of a message from the guest. With its readiness the process is told that stands for it here, as runc does. */
export function hostNotification(text: string, mainPid: number): string {
  const lines = text.split("\n").filter((line) => {
    const [name = ""] = line.split("=", 1);
    return known.has(name) && Buffer.byteLength(line) <= maxLineBytes && !hasControl(line);
  });
  if (lines.includes("READY=1")) lines.push(`MAINPID=${mainPid}`);
  return lines.join("\n");
}

function hasControl(line: string): boolean {
  return /\p{Cc}/u.test(line);
}
