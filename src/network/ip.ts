import { exec } from "../base/exec.ts";
import { asError, RuntimeError } from "../base/errors.ts";

/** The fields we read of `ip -json -details address show`. */
export interface IpLink {
  readonly ifname: string;
  readonly flags: readonly string[];
  readonly mtu: number;
  readonly link_type: string;
  readonly address?: string;
  /** Name of the bridge or bond that the link is a port of. */
  readonly master?: string;
  readonly addr_info: readonly IpAddress[];
}

export interface IpAddress {
  readonly family: string;
  readonly local: string;
  readonly prefixlen: number;
  readonly scope: string;
  /** The address may not be used: duplicate address detection found another holder. */
  readonly dadfailed?: boolean;
  /** The kernel made no route to the address's network. */
  readonly noprefixroute?: boolean;
}

/** The fields we read of `ip -json -details route show table all`. */
export interface IpRoute {
  readonly type: string;
  readonly table?: string;
  readonly dst: string;
  readonly gateway?: string;
  /** Gateway of another family than the route's. */
  readonly via?: { readonly family: string; readonly host: string };
  readonly dev?: string;
  readonly protocol?: string;
  readonly scope?: string;
  readonly prefsrc?: string;
  readonly metric?: number;
  readonly flags?: readonly string[];
  /** Router preference: IPv6 routes have it and IPv4 routes do not. */
  readonly pref?: string;
  readonly nexthops?: readonly IpNexthop[];
}

export interface IpNexthop {
  readonly gateway?: string;
  readonly via?: { readonly family: string; readonly host: string };
  readonly dev?: string;
  readonly flags?: readonly string[];
}

/** The fields we read of `ip -json neighbour show`. */
export interface IpNeighbour {
  readonly dst: string;
  readonly dev: string;
  readonly lladdr?: string;
}

/** What a namespace holds: links with addresses, routes of all tables, permanent neighbours. */
export interface IpScan {
  readonly links: readonly IpLink[];
  readonly routes: readonly IpRoute[];
  readonly neighbours: readonly IpNeighbour[];
}

export interface CommandOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs: number;
}

/** Reads everything in one go: one child process. */
export async function scanNetns(netnsPath: string, options: CommandOptions): Promise<IpScan> {
  // A batch takes no `-6` per line. All tables are the one selection that answers with both families.
  const output = await runBatch(
    netnsPath,
    ["ip", "-json", "-details"],
    ["address show", "route show table all", "neighbour show nud permanent"],
    options,
  );
  const [links, routes, neighbours] = parseJsonLines(output, 3);
  return {
    links: links as IpLink[],
    routes: routes as IpRoute[],
    neighbours: neighbours as IpNeighbour[],
  };
}

/** The names of all links. */
export async function listLinks(netnsPath: string, options: CommandOptions): Promise<string[]> {
  const output = await runBatch(netnsPath, ["ip", "-json"], ["link show"], options);
  return (parseJsonLines(output, 1)[0] as IpLink[]).map(({ ifname }) => ifname);
}

/** Runs `ip` with one command per line in the namespace; ends at the first that fails. */
export async function runIp(
  netnsPath: string,
  lines: readonly string[],
  options: CommandOptions,
): Promise<void> {
  await runBatch(netnsPath, ["ip"], lines, options);
}

/** Feeds `lines` to `<tool> -batch -` in the namespace and returns its stdout. `nsenter` executes it in place. */
export function runBatch(
  netnsPath: string,
  tool: readonly string[],
  lines: readonly string[],
  { signal, timeoutMs }: CommandOptions,
): Promise<string> {
  const argv = ["nsenter", `--net=${netnsPath}`, "--", ...tool, "-batch", "-"];
  const input = lines.map((line) => `${line}\n`).join("");
  return exec(argv, { input, timeoutMs, ...(signal === undefined ? {} : { signal }) });
}

/** The arrays that a batch of `count` commands with `-json` prints, one per line. */
export function parseJsonLines(output: string, count: number): unknown[][] {
  try {
    const parsed = output
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map((line) => JSON.parse(line) as unknown[]);
    if (parsed.length !== count) throw new Error(`${parsed.length} lines of output, expected ${count}`);
    return parsed;
  } catch (cause) {
    throw new RuntimeError("internal", "Cannot read the output of iproute2", { cause: asError(cause) });
  }
}
