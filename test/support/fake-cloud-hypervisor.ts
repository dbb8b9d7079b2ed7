import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import type { TempDir } from "./temp-dir.ts";

/** What the fake does besides answering 204 to everything: Perl, run with `$endpoint` at each request. */
export const fakeCloudHypervisor = {
  runs: "",
  refusesTheVm:
    'if ($endpoint eq "vm.create") { answer($c, "400 Bad Request", \'["no such kernel"]\'); next; }',
  failsToBoot: 'if ($endpoint eq "vm.boot") { answer($c, "500 Error", \'["Cannot open /dev/kvm"]\'); next; }',
  diesAtBoot: 'if ($endpoint eq "vm.boot") { print STDERR "fake: seccomp violation\\n"; exit 7; }',
  isSilent: 'if ($endpoint eq "vm.create") { sleep 1000; }',
  /** Its guest reboots once it runs. */
  reboots: `if ($endpoint eq "vm.boot") {
  answer($c, "204 No Content", "");
  syswrite($monitor, qq({\\n  "source": "vm",\\n  "event": "rebooting"\\n}\\n\\n));
  next;
}`,
  /** Opens disks, takes all memory that it is offered, and lets go of devices at once. */
  grows: `
if ($endpoint eq "vm.create") { ($memory) = $text =~ /"size":(\\d+)/; }
if ($endpoint eq "vm.resize") { $memory = $1 if $text =~ /"desired_ram":(\\d+)/; }
if ($endpoint eq "vm.info") { answer($c, "200 OK", qq({"memory_actual_size": $memory})); next; }
if ($endpoint eq "vm.add-disk") {
  my ($path) = $text =~ /"path":"([^"]+)"/;
  open(my $disk, "<", $path) or do { answer($c, "500 Error", "open $path: $!"); next; };
  record("disks", scalar <$disk>);
}
if ($endpoint eq "vm.remove-device") {
  my ($id) = $text =~ /"id":"([^"]+)"/;
  syswrite($monitor, qq({"source": "vm", "event": "device-removed", "properties": {"id": "$id"}}\\n\\n));
}`,
  /** Takes nothing of the memory that it is offered, and keeps its devices. */
  keeps: 'if ($endpoint eq "vm.info") { answer($c, "200 OK", qq({"memory_actual_size": 67108864})); next; }',
};

/**
 * A program in the place of Cloud Hypervisor: its API on the inherited fd 3, events on fd 4, the console's socket made by
 * `vm.create`. Writes its arguments to `argv`, its identity to `status`, and each request to `requests`.
 */
export function writeFakeCloudHypervisor(directory: TempDir, body = fakeCloudHypervisor.runs): string {
  const path = directory.join("cloud-hypervisor");
  writeFileSync(path, program(body));
  chmodSync(path, 0o755);
  return path;
}

/** The requests that the fake has got: endpoint, body, and whether a descriptor came along. */
export function recordedRequests(directory: TempDir): { endpoint: string; body: unknown }[] {
  const path = directory.join("vm", "requests");
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [endpoint = "", ...rest] = line.split(" ");
      return { endpoint, body: rest.length === 0 ? undefined : (JSON.parse(rest.join(" ")) as unknown) };
    });
}

function program(body: string): string {
  return `#!/usr/bin/perl
use Socket;
$| = 1;
sub record { my ($name, $text) = @_; open(my $f, ">>", $name); print $f $text; close $f; }
sub answer { my ($c, $status, $text) = @_; syswrite($c, "HTTP/1.1 $status\\r\\nContent-Length: " . length($text) . "\\r\\n\\r\\n$text"); }
record("argv", join("\\n", @ARGV));
{ local $/; open(my $f, "<", "/proc/self/status"); record("status", <$f>); }
open(my $api, "+<&=", 3) or die "no API socket";
open(my $monitor, ">&=", 4) or die "no monitor";
while (accept(my $c, $api)) {
  my $request = "";
  while ($request !~ /\\r\\n\\r\\n/) { sysread($c, $request, 65536, length $request) or last; }
  my ($endpoint) = $request =~ m{^(?:PUT|GET) /api/v1/(\\S+)};
  my ($length) = $request =~ /Content-Length: (\\d+)/;
  my $start = index($request, "\\r\\n\\r\\n") + 4;
  while (length($request) - $start < $length) { sysread($c, $request, 65536, length $request) or last; }
  my $text = substr($request, $start);
  record("requests", $text eq "" ? "$endpoint\\n" : "$endpoint $text\\n");
  if ($endpoint eq "vm.create") {
    socket(our $console, PF_UNIX, SOCK_STREAM, 0) or die;
    bind($console, sockaddr_un("console.sock")) or die "bind: $!";
    listen($console, 1) or die;
  }
  if ($endpoint eq "vm.boot") {
    accept(our $reader, our $console);
    syswrite($reader, "guest is up\\n");
  }
  ${body}
  answer($c, "204 No Content", "");
}
`;
}
