import { chmodSync, chownSync, mkdirSync, writeFileSync } from "node:fs";
import type { VmConfig } from "../../src/hypervisor/vm-config.ts";
import type { TempDir } from "./temp-dir.ts";

/** A user that no account has. */
export const fakeUser = { uid: 987_654, gid: 987_654 };

/**
 * A program in QEMU's place that has QMP on fd 3 and the console on fd 4, as a shell script that every user can run.
 * `body` is run after the arguments were written to `argv` and the identity to `status`, in the VM's directory.
 */
export function writeFakeQemu(directory: TempDir, body: string = fakeQemu.runs): string {
  return writeProgram(
    directory,
    "qemu",
    `#!/bin/bash\nprintf '%s\\n' "$@" >argv\ncp /proc/$$/status status\n${body}\n`,
  );
}

const answerQmp = `
echo '{"QMP": {"version": {}, "capabilities": []}}' >&3
while read -r line <&3; do
  [[ $line =~ '"id":'([0-9]+) ]] && echo '{"return": {}, "id": '"\${BASH_REMATCH[1]}"'}' >&3
done`;

export const fakeQemu = {
  /** Boots, says so on the console, and ends when the connection does. */
  runs: `echo 'guest is up' >&4\n${answerQmp}`,
  diesAtOnce: "echo 'fake-qemu: -foo: invalid option' >&2; exit 1",
  diesWithConsole: "echo 'Kernel panic: no init' >&4; echo 'fake-qemu: gave up' >&2; exit 3",
  /** Holds the connection open and never says a word. */
  isSilent: "exec sleep 1000",
  /** Boots, and powers off as soon as a file `power-off` is made. */
  powersOff: `
(until [[ -e power-off ]]; do sleep 0.05; done
echo '{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": {}}' >&3
echo 'Power down' >&4
kill -TERM $$) 3>&3 &
trap 'exit 0' TERM
${answerQmp}`,
};

/** A program in the place of vhost-device-vsock: listens and waits to be killed. Perl, because every Debian has it. */
export function writeFakeVsockBackend(directory: TempDir, body: string = fakeBackend.listens): string {
  return writeProgram(directory, "vhost-device-vsock", `#!/usr/bin/perl\nuse Socket;\n${body}\n`);
}

const listen = (name: string, between = "") => `
socket(my $${name}, PF_UNIX, SOCK_STREAM, 0) or die;
bind($${name}, sockaddr_un($path{${name}})) or die "bind: $!";${between}
listen($${name}, 1) or die;`;
const readPaths =
  'my %path = map { /^--(socket|uds-path)=(.*)/ ? (($1 eq "socket" ? "vhost" : "uds"), $2) : () } @ARGV;';

export const fakeBackend = {
  listens: `${readPaths}${listen("uds")}${listen("vhost")}\nsleep 1000;`,
  /** The file of its socket is there for a while before it listens. */
  listensLate: `${readPaths}${listen("uds")}${listen("vhost", "select(undef, undef, undef, 0.5);")}\nsleep 1000;`,
  diesAtOnce: 'print STDERR "fake-backend: no such luck\\n"; exit 4;',
  /** Is there and does not listen. */
  isSilent: "sleep 1000;",
  /** Listens, and ends as soon as a file `backend-end` is made. */
  endsLater: `${readPaths}${listen("uds")}${listen("vhost")}\nselect(undef, undef, undef, 0.05) until -e "backend-end"; exit 5;`,
};

function writeProgram(directory: TempDir, name: string, text: string): string {
  const path = directory.join(name);
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
}

/** A VM's description with files that are there and hold nothing. */
export function fakeVmConfig(directory: TempDir, changes: Partial<VmConfig> = {}): VmConfig {
  const vmDirectory = directory.join("vm");
  mkdirSync(vmDirectory, { mode: 0o700 });
  chownSync(vmDirectory, fakeUser.uid, fakeUser.gid);
  for (const name of ["vmlinux", "initrd", "image"])
    writeFileSync(directory.join(name), name, { mode: 0o600 });
  return {
    sandboxId: directory.token,
    directory: vmDirectory,
    user: fakeUser,
    machine: "microvm",
    accelerator: "tcg",
    vcpus: 1,
    memoryMiB: 64,
    kernel: {
      path: directory.join("vmlinux"),
      initrdPath: directory.join("initrd"),
      commandLine: "quiet",
      acpi: true,
    },
    disks: [{ id: "image", path: directory.join("image"), readOnly: true }],
    shares: [],
    nics: [],
    vsock: { tag: "vhost-device-vsock" },
    ...changes,
  };
}
