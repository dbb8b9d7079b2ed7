import { type CommandOptions, listLinks, parseJsonLines, runBatch } from "./ip.ts";
import { isTapName } from "./tap.ts";

// None of the commands waits for anything but the kernel's routing lock.
const admitTimeoutMs = 10_000;

// Frames that come in at the link go out at the tap and the other way round, before the namespace's own IP stack sees
// them. "All frames" and "drop" are classic BPF programs of one instruction: the usual matchall and gact are missing in
// small kernels.

/** Preference of our filters: by it they are found again, and it leaves room before them. */
const redirectPref = 51_733;
const dropPref = 51_734;
/** Before the redirection. */
const namesPref = 51_732;
const ownPrefs = [namesPref, redirectPref];
/** `ret -1`: the filter matches. */
const allFrames = 'bpf bytecode "1,6 0 0 4294967295"';
/** `ret TC_ACT_SHOT`, and that is the verdict. */
const drop = 'bpf bytecode "1,6 0 0 2" direct-action';

/** `arp or (ip and udp src port 53)`, as `tcpdump -ddd` has it. */
const nameAnswers =
  'bpf bytecode "12,40 0 0 12,21 8 0 2054,21 0 8 2048,48 0 0 23,21 0 6 17,40 0 0 20,69 4 0 8191,177 0 0 14,72 0 0 14,21 0 1 53,6 0 0 4294967295,6 0 0 0"';

export interface Redirect {
  readonly link: string;
  readonly tap: string;
  /** The link's MAC address, and the only one that frames of the guest may come from. */
  readonly macAddress: string;
}

/**
 * Joins links and taps: one child process, two more where somebody else has a qdisc on the ingress of a link already.
 * It works as well over what an earlier sandbox left.
 *
 * Takes no signal: a child killed between a qdisc and its filter would leave a qdisc of which nobody can say whose it is.
 */
export async function redirectLinks(
  netnsPath: string,
  redirects: readonly Redirect[],
  { timeoutMs }: Omit<CommandOptions, "signal">,
): Promise<void> {
  const options = { timeoutMs };
  const run = (taken: ReadonlySet<string>) =>
    runTc(
      netnsPath,
      redirects.flatMap((redirect) => planRedirect(redirect, { makeQdisc: !taken.has(redirect.link) })),
      options,
    );
  try {
    await run(new Set());
  } catch (error) {
    // Of the kinds of qdisc for ingress a link has one, and ours cannot replace a foreign one, but its filter can be in it.
    const [qdiscs] = await showTc<Qdisc>(netnsPath, ["qdisc show"], options);
    const taken = new Set((qdiscs ?? []).filter(isForIngress).map(({ dev }) => dev));
    if (!redirects.some(({ link }) => taken.has(link))) throw error;
    await run(taken);
  }
}

/** `tc` commands that join a link and a tap. `makeQdisc`: the link has none for ingress, or ours. */
export function planRedirect(
  { link, tap, macAddress }: Redirect,
  { makeQdisc }: { makeQdisc: boolean },
): string[] {
  return [
    `qdisc replace dev ${tap} ingress`,
    filter(tap, dropPref, `handle 1 ${drop}`),
    filter(tap, redirectPref, `handle 800::1 u32 match ether src ${macAddress} ${redirectTo(link)}`),
    // Together with its filter, by which it is known to be ours.
    ...(makeQdisc ? [`qdisc replace dev ${link} ingress`] : []),
    // Not u32: its handles are common to a qdisc's filters, and this one may be in a foreign qdisc.
    filter(link, redirectPref, `handle 1 ${allFrames} ${redirectTo(tap)}`),
  ];
}

function filter(device: string, pref: number, what: string): string {
  return `filter replace dev ${device} ingress protocol all pref ${pref} ${what}`;
}

function redirectTo(device: string): string {
  return `action mirred egress redirect dev ${device}`;
}

/**
 * Lets answers of name servers come to the namespace's own IP stack, beside the guest: by UDP and IPv4, with the ARP that it takes.
 * A name server in the namespace (Docker's) asks others by the links that the guest has; what the other of the two has asked, each
 * ignores. It ends with the redirection.
 */
export async function admitNameAnswers(netnsPath: string, signal: AbortSignal): Promise<void> {
  const options = { signal, timeoutMs: admitTimeoutMs };
  const links = (await listLinks(netnsPath, options)).filter((name) => name !== "lo" && !isTapName(name));
  if (links.length === 0) return;
  const commands = links.map((link) => `filter show dev ${link} ingress`);
  const filters = await showTc<Filter>(netnsPath, commands, options);
  const plan = links.flatMap((link, index) => {
    const redirect = filters[index]?.find(({ pref, options: set }) => pref === redirectPref && set?.actions);
    const tap = redirect?.options?.actions?.[0]?.to_dev;
    return tap === undefined || !isTapName(tap) ? [] : planNameAnswers(link, tap);
  });
  if (plan.length > 0) await runTc(netnsPath, plan, { timeoutMs: admitTimeoutMs });
}

/** `tc` commands for a link that is redirected to the tap. */
export function planNameAnswers(link: string, tap: string): string[] {
  return [filter(link, namesPref, `handle 1 ${nameAnswers} action mirred egress mirror dev ${tap}`)];
}

/** The fields we read of `tc -json filter show`. */
interface Filter {
  readonly pref: number;
  readonly options?: { readonly actions?: readonly { readonly to_dev?: string }[] };
}

/** A link's ingress: what is on it, ours or not. */
export interface Ingress {
  readonly link: string;
  readonly qdisc: "ingress" | "clsact" | undefined;
  readonly filterPrefs: readonly number[];
}

/** Takes our filters from the links: one child process to look, a second one if there is something to remove. */
export async function restoreLinks(
  netnsPath: string,
  links: readonly string[],
  options: CommandOptions,
): Promise<void> {
  if (links.length === 0) return;
  const commands = links.map((link) => `filter show dev ${link} ingress`);
  const [qdiscs = [], ...filters] = await showTc<Qdisc & { pref: number }>(
    netnsPath,
    ["qdisc show", ...commands],
    options,
  );
  const found = links.map((link, index) => ({
    link,
    qdisc: qdiscs.filter(isForIngress).find(({ dev }) => dev === link)?.kind,
    filterPrefs: filters[index]?.map(({ pref }) => pref) ?? [],
  }));
  const plan = planRedirectRemoval(found);
  if (plan.length > 0) await runTc(netnsPath, plan, options);
}

/** `tc` commands that take our filter from links; the qdisc goes too where it is of our kind and has no other filter. */
export function planRedirectRemoval(links: readonly Ingress[]): string[] {
  return links
    .filter(({ filterPrefs }) => filterPrefs.includes(redirectPref))
    .flatMap(({ link, qdisc, filterPrefs }) =>
      qdisc === "ingress" && filterPrefs.every((pref) => ownPrefs.includes(pref))
        ? [`qdisc delete dev ${link} ingress`]
        : ownPrefs
            .filter((pref) => filterPrefs.includes(pref))
            .map((pref) => `filter delete dev ${link} ingress pref ${pref}`),
    );
}

/** The fields we read of `tc -json qdisc show`. */
interface Qdisc {
  readonly kind: string;
  readonly dev: string;
}

function isForIngress<Q extends Qdisc>(qdisc: Q): qdisc is Q & { kind: "ingress" | "clsact" } {
  return qdisc.kind === "ingress" || qdisc.kind === "clsact";
}

async function showTc<Row>(
  netnsPath: string,
  lines: readonly string[],
  options: CommandOptions,
): Promise<Row[][]> {
  return parseJsonLines(await runBatch(netnsPath, ["tc", "-json"], lines, options), lines.length) as Row[][];
}

async function runTc(netnsPath: string, lines: readonly string[], options: CommandOptions): Promise<void> {
  await runBatch(netnsPath, ["tc"], lines, options);
}
