import { isIPv4 } from "node:net";
import type { Agent } from "../agent-client/agent.ts";
import type { NameQuery } from "../agent-client/name-queries.ts";
import { isBind } from "../agent-client/guest-mounts.ts";
import { describe } from "../base/errors.ts";
import { readRegularFile } from "../base/files.ts";
import type { Log } from "../base/log.ts";
import { scope } from "../base/scope.ts";
import { askNameServer, maxNameMessageBytes } from "../network/name-server.ts";
import { admitNameAnswers } from "../network/tc.ts";
import type { Spec } from "../oci/spec.ts";

/** More than anybody needs: resolvers read three servers and 256 characters of a search list. */
const maxResolvConfBytes = 65_536;
/** resolv.conf(5): what comes behind them is not used. */
const maxServers = 3;
/** Docker asks each of its servers for four seconds; resolvers ask again after five. */
const answerTimeoutMs = 10_000;

/**
 * The name servers of a container that are on the loopback of its network namespace on the host, where Docker puts its own, from
 * the file that is bound to /etc/resolv.conf. Not 127.0.0.1: what listens there is in the guest.
 *
 * The container may have written to the file: whatever it names is an address of the loopback of a namespace that has nothing but
 * the container's own network in it.
 */
export async function loopbackNameServers(spec: Pick<Spec, "mounts">): Promise<string[]> {
  const bind = spec.mounts?.findLast((mount) => isBind(mount) && isResolvConf(mount.destination));
  if (bind?.source === undefined) return [];
  const content = await readRegularFile(bind.source, maxResolvConfBytes);
  return parseNameServers(content.toString("latin1"));
}

function isResolvConf(destination: string): boolean {
  return /^\/+etc\/+resolv\.conf$/.test(destination);
}

/** Those of the loopback but 127.0.0.1. */
export function parseNameServers(resolvConf: string): string[] {
  const servers = resolvConf
    .split("\n")
    .flatMap((line) => /^nameserver[ \t]+([^ \t\r]+)/.exec(line)?.[1] ?? [])
    .slice(0, maxServers)
    .filter((address) => isIPv4(address) && address.startsWith("127.") && address !== "127.0.0.1");
  return [...new Set(servers)];
}

export interface NameForwarderParts {
  readonly agent: Agent;
  /** Of the sandbox, at the time of a query. */
  readonly netnsPath: () => string;
  readonly log: Log;
}

/** Name servers of the namespace on the host, at the same addresses in the guest. It asks no others for the guest. */
export class NameForwarder {
  readonly #parts: NameForwarderParts;
  readonly #served = new Set<string>();
  #isAnswering = false;

  constructor(parts: NameForwarderParts) {
    this.#parts = parts;
  }

  /** Serves them from when it returns, with those that are served already. */
  async serve(addresses: readonly string[], signal: AbortSignal): Promise<void> {
    const added = addresses.filter((address) => !this.#served.has(address));
    if (added.length === 0) return;
    const { agent, netnsPath } = this.#parts;
    await admitNameAnswers(netnsPath(), signal);
    this.#beginToAnswer();
    for (const address of added) this.#served.add(address);
    try {
      await agent.serveNames(added, signal);
    } catch (error) {
      for (const address of added) this.#served.delete(address);
      throw error;
    }
  }

  #beginToAnswer(): void {
    if (this.#isAnswering) return;
    this.#isAnswering = true;
    const { agent, log } = this.#parts;
    void agent
      .answerNameQueries((query) => this.#answer(query))
      .then((reason) => log.debug({ reason }, "no more names are resolved for the guest"));
  }

  async #answer({ address, overTcp, message }: NameQuery): Promise<Uint8Array | undefined> {
    const { netnsPath, log } = this.#parts;
    if (!this.#served.has(address) || message.length > maxNameMessageBytes) return undefined;
    using limit = scope(undefined, answerTimeoutMs, "a name query of the guest");
    try {
      const question = { netnsPath: netnsPath(), address, overTcp, message };
      return await askNameServer(question, limit.signal);
    } catch (error) {
      log.debug({ error: describe(error) }, "a name query was not answered");
      return undefined;
    }
  }
}
