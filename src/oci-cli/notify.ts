/**
 * sd_notify(3) across the VM's border: the container has a socket in the guest, and what it says there goes to the socket that
 * our caller's NOTIFY_SOCKET names, as far as a service manager can make use of it.
 */
import { loadNative } from "../base/native.ts";
import type { TaskClient } from "../client/task-client.ts";

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
        if (message !== "") loadNative().sendDatagram(socketPath, message);
      } catch {
        // The manager is gone, or does not want it.
      }
    }
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
