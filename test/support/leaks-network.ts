import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { decodeMountPath } from "./temp-dir.ts";
import { run } from "./cli-run.ts";
import { isMarked, type LeakScope, type Thing } from "./leaks-scope.ts";

interface Namespace {
  /** `net:[4026531840]`; "" for the one we are in. */
  readonly id: string;
  /** How to get in: a path, or undefined for ours. */
  readonly path: string | undefined;
  readonly text: string;
  /** Held by nothing but a process. */
  readonly mayEnd: boolean;
}

/** Network namespaces kept by a name, a mount or a process, the links in each, and their ingress hooks. */
export async function findNetwork(scope: LeakScope): Promise<Thing[]> {
  const namespaces = findNamespaces();
  const inside = await Promise.all(
    [{ id: "", path: undefined, text: "here", mayEnd: false }, ...namespaces].map(listInside(scope)),
  );
  const things = namespaces.map(
    (namespace): Thing => ({
      kind: "network namespace",
      key: namespace.id,
      text: `${namespace.id}, ${namespace.text}`,
      isMarked: isMarked(scope, namespace.text),
      mayEnd: namespace.mayEnd,
    }),
  );
  return [...things, ...inside.flat()];
}

/** Every namespace but our own, once, by the inode that is its identity. */
function findNamespaces(): Namespace[] {
  const own = readlinkSync("/proc/self/ns/net");
  const found = new Map<string, Namespace>();
  // A namespace made persistent is an nsfs mount, `ip netns` names included (they are mounts in /run/netns).
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [, , , root = "", point = ""] = line.split(" ");
    if (!root.startsWith("net:[")) continue;
    const path = decodeMountPath(point);
    found.set(root, { id: root, path, text: `mounted at ${path}`, mayEnd: false });
  }
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const id = readlinkSync(`/proc/${pid}/ns/net`);
      if (found.has(id)) continue;
      const words = readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ").trim();
      found.set(id, {
        id,
        path: `/proc/${pid}/ns/net`,
        text: `held by pid ${pid}: ${words.slice(0, 200)}`,
        mayEnd: true,
      });
    } catch {
      // The process ended, or is a zombie and has no namespaces any more.
    }
  }
  found.delete(own);
  return [...found.values()];
}

function listInside(scope: LeakScope) {
  return async (namespace: Namespace): Promise<Thing[]> => {
    const [links, qdiscs] = await Promise.all([
      listJson(namespace, ["ip", "-json", "link", "show"]),
      listJson(namespace, ["tc", "-json", "qdisc", "show"]),
    ]);
    const where = namespace.path === undefined ? "in our network namespace" : `in ${namespace.text}`;
    const owned = isMarked(scope, namespace.text);
    return [
      ...links
        // Every namespace has its own loopback; it is no thing beside the namespace.
        .filter((link) => link["ifname"] !== "lo")
        .map((link): Thing => {
          const name = `${String(link["ifname"])} (${String(link["ifalias"] ?? link["link_type"])})`;
          return {
            kind: "link",
            key: `${namespace.id}/${String(link["ifindex"])}/${String(link["ifname"])}`,
            text: `${name} ${where}`,
            isMarked: owned || isMarked(scope, name),
            mayEnd: namespace.mayEnd,
          };
        }),
      ...qdiscs
        .filter((qdisc) => qdisc["kind"] === "ingress" || qdisc["kind"] === "clsact")
        .map(
          (qdisc): Thing => ({
            kind: "qdisc",
            key: `${namespace.id}/${String(qdisc["dev"])}/${String(qdisc["kind"])}`,
            text: `${String(qdisc["kind"])} on ${String(qdisc["dev"])} ${where}`,
            isMarked: owned || isMarked(scope, String(qdisc["dev"])),
          }),
        ),
    ];
  };
}

async function listJson(namespace: Namespace, argv: readonly string[]): Promise<Record<string, unknown>[]> {
  const prefix = namespace.path === undefined ? [] : ["nsenter", `--net=${namespace.path}`, "--"];
  const result = await run([...prefix, ...argv], { timeoutMs: 20_000 });
  if (result.exitCode === 0) {
    return result.stdout.trim() === "" ? [] : (JSON.parse(result.stdout) as Record<string, unknown>[]);
  }
  // A namespace may end between being found and being entered; ours cannot.
  if (namespace.path !== undefined) return [];
  throw new Error(`Cannot list links: "${argv.join(" ")}" says ${JSON.stringify(result.stderr)}`);
}
