/** Which descriptors of the host can be given to a process in a guest, and as what. */
import { closeSync, constants, openSync } from "node:fs";
import type { GuestDescriptor } from "../agent-client/agent-types.ts";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { type DescriptorFacts, loadNative } from "../base/native.ts";

/** Most that a process gets. */
export const maxDescriptors = 64;

/** Numbers of Linux (socket(2), ip(7)). */
const [afUnix, afInet, afInet6] = [1, 2, 10];
const [ipprotoTcp, ipprotoMptcp] = [6, 262];

/**
 * What an open descriptor of this process becomes in a guest: listening sockets of the kinds unix stream and TCP, connected
 * sockets of those kinds, ends of pipes.
 *
 * @param name  how the caller calls it
 * @throws unimplemented     its kind cannot cross; the error names it
 * @throws invalid_argument  it is not open
 */
export function guestDescriptorOf(fd: number, name: string): GuestDescriptor {
  const facts = factsOf(fd, name);
  if (facts.kind === "fifo" && facts.access === "r") return { kind: "pipe-reader", port: 0 };
  if (facts.kind === "fifo" && facts.access === "w") return { kind: "pipe-writer", port: 0 };
  const family = streamFamily(facts);
  if (family !== undefined && facts.isListening) return { kind: `${family}-listener`, port: facts.port };
  if (family !== undefined && facts.isConnected) return { kind: "stream", port: 0 };
  throw new RuntimeError(
    "unimplemented",
    `${name} is ${wordsFor(facts)}, which cannot be handed into a VM: expected a listening or connected stream socket (unix, TCP), or an end of a pipe`,
  );
}

function factsOf(fd: number, name: string): DescriptorFacts {
  try {
    return loadNative().describeFd(fd);
  } catch (cause) {
    if (errnoOf(cause) !== "EBADF") throw cause;
    throw new RuntimeError("invalid_argument", `${name} is not open`, { cause });
  }
}

function streamFamily({ kind, socketType, domain, protocol }: DescriptorFacts) {
  if (kind !== "socket" || socketType !== "stream") return undefined;
  if (domain === afUnix) return "unix";
  if (protocol !== ipprotoTcp && protocol !== ipprotoMptcp) return undefined;
  return domain === afInet ? "tcp4" : domain === afInet6 ? "tcp6" : undefined;
}

function wordsFor(facts: DescriptorFacts): string {
  const { kind, socketType, domain, isListening, isConnected } = facts;
  if (kind === "fifo") return "a FIFO open in both directions";
  if (kind !== "socket") return kind === "other" ? "neither a file nor a socket" : `a ${kind}`;
  const families: Readonly<Record<number, string>> = {
    [afUnix]: "unix",
    [afInet]: "IPv4",
    [afInet6]: "IPv6",
    16: "netlink",
    17: "packet",
    40: "vsock",
  };
  const state = isListening ? "listening " : isConnected ? "connected " : "";
  const family = families[domain] ?? `family ${domain}`;
  return `a ${state}${family} ${socketType === "other" ? "raw" : socketType} socket`;
}

/**
 * Duplicates descriptors of another process. The caller owns them. On failure none is left.
 *
 * @throws permission_denied, not_found  the process or a descriptor cannot be reached
 */
export function takeDescriptors(pid: number, fds: readonly number[]): number[] {
  if (fds.length > maxDescriptors) {
    throw new RuntimeError(
      "resource_exhausted",
      `Cannot hand ${fds.length} descriptors over: a process gets at most ${maxDescriptors}`,
    );
  }
  const taken: number[] = [];
  try {
    for (const fd of fds) taken.push(ownDescription(loadNative().takeFd(pid, fd)));
    return taken;
  } catch (cause) {
    for (const fd of taken) closeSync(fd);
    throw new RuntimeError("permission_denied", `Cannot take the descriptors of process ${pid}`, { cause });
  }
}

/** A pipe is opened anew, so that its being non-blocking here is nobody else's. A socket cannot be. */
function ownDescription(fd: number): number {
  const { kind, access } = loadNative().describeFd(fd);
  if (kind !== "fifo" || access === "rw") return fd;
  try {
    const mode = access === "r" ? constants.O_RDONLY : constants.O_WRONLY;
    return openSync(`/proc/self/fd/${fd}`, mode | constants.O_NONBLOCK);
  } finally {
    closeSync(fd);
  }
}
