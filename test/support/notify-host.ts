import { once } from "node:events";
import { spawn } from "node:child_process";
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
