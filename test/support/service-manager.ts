/** What systemd does for a service with sockets, by perl, which every Debian has: node's own servers would accept themselves. */

const script = `
use Socket; $^F = 99; my ($spec, @command) = @ARGV;
my @made; my $listening = 0; my $names = "";
for my $part (split /,/, $spec) {
  my ($kind, $where) = split /=/, $part, 2; my ($s, $other);
  if ($kind eq "unix") { socket($s, AF_UNIX, SOCK_STREAM, 0) or die; bind($s, pack_sockaddr_un($where)) or die; listen($s, 50); $listening++ }
  elsif ($kind eq "tcp") { socket($s, AF_INET, SOCK_STREAM, 0) or die; setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
    bind($s, pack_sockaddr_in($where, INADDR_LOOPBACK)) or die; listen($s, 50); $listening++ }
  elsif ($kind eq "datagram") { socket($s, AF_UNIX, SOCK_DGRAM, 0) or die; bind($s, pack_sockaddr_un($where)) or die; $listening++ }
  elsif ($kind eq "connected") { socket($s, AF_UNIX, SOCK_STREAM, 0) or die; connect($s, pack_sockaddr_un($where)) or die }
  elsif ($kind eq "read") { open($s, "<", $where) or die }
  elsif ($kind eq "write") { open($s, ">", $where) or die }
  push @made, $s;
}
require POSIX;
# Out of the way first, then to where they are wanted.
my @high = map { my $n = 50 + $_; POSIX::dup2(fileno($made[$_]), $n); $n } 0..$#made;
POSIX::dup2($high[$_], 3 + $_) for 0..$#high;
POSIX::close($_) for @high, grep { $_ >= 3 + @high } map { fileno($_) } @made;
if ($listening) { $ENV{LISTEN_FDS} = $listening; $ENV{LISTEN_PID} = $$; $ENV{LISTEN_FDNAMES} = join ":", map { "name$_" } 1..$listening }
exec @command or die;
`;

export type OpenFile =
  | { readonly kind: "unix" | "datagram" | "connected" | "read" | "write"; readonly path: string }
  | { readonly kind: "tcp"; readonly port: number };

/** Words to put before a command: it gets these files from descriptor 3 on. Those that listen, and datagram sockets, come first. */
export function withOpenFiles(files: readonly OpenFile[]): string[] {
  const parts = files.map((file) => `${file.kind}=${file.kind === "tcp" ? file.port : file.path}`);
  return ["perl", "-e", script, parts.join(",")];
}
