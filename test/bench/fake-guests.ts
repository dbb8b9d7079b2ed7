/**
 * What daemons get in the place of QEMU, its helpers and a guest, so that many of them run on a small machine: programs that listen
 * and answer QMP, and an agent for each, which lives here. Everything of the daemon's own is real.
 */
import { once } from "node:events";
import { chmodSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { Cleanup } from "../../src/base/cleanup.ts";
import { startFakeAgent } from "../support/fake-agent.ts";
import type { TempDir } from "../support/temp-dir.ts";

export interface FakeGuests extends AsyncDisposable {
  /** Lines for a configuration that uses them. */
  readonly settings: string;
}

/** Writes the programs into `dir` and plays the guests of those that are started, until it is disposed. */
export async function startFakeGuests(dir: TempDir): Promise<FakeGuests> {
  await using cleanup = new Cleanup();
  const path = dir.join("guests.sock");
  const agents = new Map<string, Awaited<ReturnType<typeof startFakeAgent>>>();
  cleanup.defer("agents", async () => {
    for (const agent of agents.values()) await agent[Symbol.asyncDispose]();
  });
  const failures: unknown[] = [];
  const vms = new Map<string, Socket>();
  const shares = new Map<string, PromiseWithResolvers<void>>();
  const shareOf = (directory: string) => {
    const known = shares.get(directory) ?? Promise.withResolvers<void>();
    shares.set(directory, known);
    return known;
  };
  const onLine = async (kind: string, directory: string, socket: Socket) => {
    switch (kind) {
      case "virtiofsd":
        return shareOf(directory).resolve();
      case "backend": {
        const powerOff = () => void vms.get(directory)?.destroy();
        agents.set(directory, await startAgent(join(directory, "vsock"), powerOff));
        return void socket.write("ready\n");
      }
      case "qemu":
        vms.set(directory, socket);
        await shareOf(directory).promise;
        socket.write("ready\n");
        await agents.get(directory)?.sayReady();
    }
  };
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (chunk: Buffer) => {
      const [kind = "", directory = ""] = chunk.toString().trim().split(" ");
      onLine(kind, directory, socket).catch((error: unknown) => failures.push(error));
    });
  }).listen(path);
  await once(server, "listening");
  cleanup.defer("server", () => void server.close());
  // The programs are run as users of their own.
  chmodSync(path, 0o666);
  const program = (name: string, body: string) => {
    const file = dir.join(name);
    writeFileSync(file, `#!/usr/bin/perl\nuse Socket;\n$| = 1;\nmy $guests = "${path}";\n${body}\n`);
    chmodSync(file, 0o755);
    return file;
  };
  const settings = [
    ["qemu_path", program("qemu", qemu)],
    ["vhost_device_vsock_path", program("vhost-device-vsock", backend)],
    ["virtiofsd_path", program("virtiofsd", virtiofsd)],
  ];
  const owned = cleanup.move();
  return {
    settings: `accel = "tcg"\nvsock = "vhost-device-vsock"\n${settings.map(([key, file]) => `${key} = "${file}"\n`).join("")}`,
    [Symbol.asyncDispose]: async () => {
      await owned[Symbol.asyncDispose]();
      if (failures.length > 0) throw new Error("A fake guest failed", { cause: failures[0] });
    },
  };
}

/** An agent whose containers run until they are killed. */
async function startAgent(path: string, powerOff: () => void) {
  const agent = await startFakeAgent({
    path,
    handlers: {
      StartProcess: () => ({ guestPid: 2 }),
      SignalProcess: ({ containerId, execId }) => {
        const exit = { containerId: String(containerId), execId: String(execId), exitStatus: 137 };
        setImmediate(() => void agent.emit({ exit }));
        return {};
      },
      PowerOff: () => {
        powerOff();
        return {};
      },
    },
  });
  return agent;
}

const connectToGuests = `
use Cwd;
socket(my $peer, PF_UNIX, SOCK_STREAM, 0) or die;
connect($peer, sockaddr_un($guests)) or die "connect: $!";`;

/** Says who it is and waits for the answer. */
const report = (kind: string) => `${connectToGuests}
syswrite($peer, "${kind} " . getcwd() . "\\n");
sysread($peer, my $answer, 16) or die "no answer";`;

/** Has the share as its root in a mount namespace of its own, as the real one. The numbers are those of x86-64's system calls. */
const virtiofsd = `${connectToGuests}
my ($share) = map { /^--shared-dir=(.*)/ ? $1 : () } @ARGV;
my ($none, $here, $root) = ("none", ".", "/");
my ($unshare, $mount, $pivot, $umount) = (272, 165, 155, 166);
my ($new_namespace, $slave, $bind, $detach) = (0x20000, 0x84000, 0x5000, 2);
my $directory = getcwd();
syscall($unshare, $new_namespace) == 0 or die "unshare: $!";
syscall($mount, $none, $root, $none, $slave, 0) == 0 or die "slave: $!";
syscall($mount, $share, $share, $none, $bind, 0) == 0 or die "bind: $!";
chdir $share or die "chdir: $!";
syscall($pivot, $here, $here) == 0 or die "pivot_root: $!";
syscall($umount, $here, $detach) == 0 or die "umount: $!";
chdir "/";
syswrite($peer, "virtiofsd $directory\\n");
sleep 100000;`;

/** Listens where QEMU would connect, once the agent listens where the daemon will. */
const backend = `${report("backend")}
my ($path) = map { /^--socket=(.*)/ ? $1 : () } @ARGV;
socket(my $listener, PF_UNIX, SOCK_STREAM, 0) or die;
bind($listener, sockaddr_un($path)) or die "bind: $!";
listen($listener, 1) or die;
sleep 100000;`;

/** Answers QMP until the guest is powered off, which its end of the connection to us says. */
const qemu = `${report("qemu")}
open(my $qmp, "+<&=", 3) or die "no QMP";
syswrite($qmp, qq({"QMP": {"version": {}, "capabilities": []}}\n));
my $wanted = "";
vec($wanted, fileno($_), 1) = 1 for $qmp, $peer;
while (select(my $found = $wanted, undef, undef, undef)) {
  exit 0 if vec($found, fileno($peer), 1);
  sysread($qmp, my $text, 65536) or exit 0;
  syswrite($qmp, qq({"return": {}, "id": $1}\n)) while $text =~ /"id":([0-9]+)/g;
}`;
