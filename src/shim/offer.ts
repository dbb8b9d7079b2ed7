/**
 * How the launcher (launcher/src/offer.rs) gives a `start` to a daemon that is there already, over `<state>/.ready/<id>` (a daemon with
 * a ready VM) or `<state>/.node/<hash>` (one that serves many sandboxes), one JSON line each: launcher → daemon `Offer`; daemon → launcher
 * `{"tag":"declined"}`, after which the launcher starts a daemon of its own, or a `DaemonReply`, as from a daemon that it has started
 * itself; launcher → daemon `{}` before it prints the answer.
 */
import { readlinkSync, statSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cgroupMountPoint, hostCgroupVersion } from "../base/cgroups.ts";
import { describe } from "../base/errors.ts";
import { property } from "../base/json.ts";
import { within } from "../base/scope.ts";
import type { StartCall } from "./daemon.ts";
import { type Flags, parseFlags } from "./flags.ts";
import type { Handshake } from "./handshake.ts";

/** What a process that the launcher starts has from it, and from its caller. */
export interface Offer {
  /** The command line of `start`, without the action. */
  readonly argv: readonly string[];
  /** What came in on stdin, in hex. */
  readonly stdin: string;
  /** Links of /proc/self/ns, in the order of `namespaceTypes`. */
  readonly namespaces: readonly string[];
  /** Path of the program that it runs with Node. */
  readonly program: string;
  /** Of the environment; empty: not set. */
  readonly configFile: string;
  readonly ttrpcAddress: string;
  /** Contents of /proc/self/cgroup and /proc/self/oom_score_adj. */
  readonly cgroups: string;
  readonly oomScore: string;
}

interface Declined {
  readonly tag: "declined";
}

const offerTimeoutMs = 5_000;

/** The offer that somebody makes who has connected, with what the command line in it says. Undefined: it is none. */
export async function receiveOffer(
  handshake: Handshake,
): Promise<{ readonly offer: Offer; readonly flags: Flags } | undefined> {
  const offer = readOffer(await within(handshake.receive(), offerTimeoutMs, undefined));
  return offer === undefined ? undefined : { offer, flags: parseFlags([...offer.argv, "start"]) };
}

export async function decline(handshake: Handshake): Promise<void> {
  handshake.send({ tag: "declined" } satisfies Declined);
  await handshake.end();
}

/** The `start` that is offered, which comes now. */
export function callOf(handshake: Handshake, { offer, flags }: { offer: Offer; flags: Flags }): StartCall {
  const environment = { CAISSON_CONFIG: offer.configFile, TTRPC_ADDRESS: offer.ttrpcAddress };
  const stdin = Buffer.from(offer.stdin, "hex");
  return { handshake, flags, stdin, environment, originMs: performance.now() };
}

/** Directory of the sockets of daemons that wait. */
export function readyDirectory(stateDirectory: string): string {
  return join(stateDirectory, ".ready");
}

const namespaceTypes = ["mnt", "net", "pid", "user", "ipc", "uts", "cgroup"];

/** The program that we run is another one after an upgrade. */
export function describeProgram(): string {
  const stat = statSync(process.argv[1] ?? "", { throwIfNoEntry: false });
  return JSON.stringify([stat?.dev, stat?.ino, stat?.size, stat?.mtimeMs]);
}

/** Whether a process that the launcher starts would see what we see. */
export function isFromSameHost(offer: Offer): boolean {
  const own = namespaceTypes.map((type) => readlinkSync(`/proc/self/ns/${type}`));
  return own.every((link, index) => link === offer.namespaces[index]) && offer.program === process.argv[1];
}

/** Whether it has the configuration that we have started with. */
export function hasOurConfig({ configFile }: Offer): boolean {
  return configFile === (process.env["CAISSON_CONFIG"] ?? "");
}

/** An offer, or undefined when it is none that we understand. */
function readOffer(value: unknown): Offer | undefined {
  const isText = (name: string) => typeof property(value, name) === "string";
  const isList = (name: string) => {
    const list = property(value, name);
    return Array.isArray(list) && list.every((item) => typeof item === "string");
  };
  const texts = ["stdin", "program", "configFile", "ttrpcAddress", "cgroups", "oomScore"];
  const isGood = texts.every(isText) && ["argv", "namespaces"].every(isList);
  return isGood ? (value as Offer) : undefined;
}

/** Makes processes as dear to the kernel, when memory runs out, as those that the launcher starts. */
export function takeOomScore({ oomScore }: Offer, pids: readonly number[]): void {
  for (const pid of pids) {
    try {
      writeFileSync(`/proc/${pid}/oom_score_adj`, oomScore.trim());
    } catch {
      // Best effort: not permitted in a user namespace, or the process has ended.
    }
  }
}

/** Moves processes, which are in our cgroups, into the launcher's; returns what went wrong. */
export async function joinCgroups({ cgroups }: Offer, pids: readonly number[]): Promise<string[]> {
  if (cgroups === (await readFile("/proc/self/cgroup", "utf8"))) return [];
  const isUnified = (await hostCgroupVersion()) === 2;
  const failures: string[] = [];
  for (const line of cgroups.split("\n")) {
    const [id, controllers = "", ...rest] = line.split(":");
    const path = rest.join(":");
    if (id === "" || path === "" || isUnified !== (id === "0")) continue;
    const hierarchy = isUnified
      ? cgroupMountPoint
      : join(cgroupMountPoint, controllers.replace(/^name=/, ""));
    for (const pid of pids) {
      await writeFile(join(hierarchy, path, "cgroup.procs"), String(pid)).catch((error: unknown) =>
        failures.push(describe(error)),
      );
    }
  }
  return failures;
}
