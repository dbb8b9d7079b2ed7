import { once } from "node:events";
import { execFileSync, spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** A service manager's socket: what is sent to it. Node has no datagram sockets of this kind, so perl, which every Debian has, listens. */
export interface NotifyListener extends AsyncDisposable {
  /** Resolves with the next datagram, its lines joined by "|". */
  next(): Promise<string>;
}

const script = `
use Socket; $| = 1;
socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die; bind($s, pack_sockaddr_un($ARGV[0])) or die; print "listening\\n";
while (defined recv($s, my $text, 8192, 0)) { $text =~ s/\\n/|/g; print "$text\\n" }
`;

export async function listenForNotifications(path: string): Promise<NotifyListener> {
  const child = spawn("perl", ["-e", script, path], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  await lines.next();
  return {
    next: async () => String((await lines.next()).value),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

/** What a service does with libsystemd: one datagram for each argument. */
const program = `
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv) {
  struct sockaddr_un to = { .sun_family = AF_UNIX };
  strcpy(to.sun_path, getenv("NOTIFY_SOCKET"));
  int s = socket(AF_UNIX, SOCK_DGRAM, 0);
  for (int i = 1; i < argc; i++)
    if (sendto(s, argv[i], strlen(argv[i]), 0, (void *)&to, sizeof to) < 0) return 1;
  pause();
}`;

/** Builds a service that sends each of its arguments to NOTIFY_SOCKET and stays. */
export function buildNotifier(path: string): void {
  execFileSync("gcc", ["-static", "-O1", "-x", "c", "-o", path, "-"], { input: program });
}
