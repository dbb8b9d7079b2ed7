import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { start } from "./cli-run.ts";
import type { TempDir } from "./temp-dir.ts";

const registryPort = 5000;
const registryHosts = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];

/** A network namespace for a containerd with its bridge, host ports and registry: the machine's own is not touched. */
export interface CriNetwork extends AsyncDisposable {
  /** Arguments in front of a command that is to run in it. */
  readonly prefix: readonly string[];
  /** Folder with CNI configurations. */
  readonly cniDirectory: string;
  /** Folder with a hosts.toml per registry, which all lead to ours. */
  readonly registryDirectory: string;
}

/** Makes the namespace and starts a registry with the images of `layout` in it. */
export async function createCriNetwork(dir: TempDir, layout: string): Promise<CriNetwork> {
  const sh = (file: string, ...args: string[]) => execFileSync(file, args, { stdio: "pipe" });
  sh("ip", "netns", "add", dir.token);
  const prefix = ["nsenter", `--net=/run/netns/${dir.token}`, "--"];
  const enter = (...argv: string[]) => sh("nsenter", ...prefix.slice(1), ...argv);
  enter("ip", "link", "set", "lo", "up");
  const registry = start(
    [...prefix, process.execPath, join(import.meta.dirname, "cri-registry.ts"), layout, String(registryPort)],
    { timeoutMs: 2 ** 31 - 1 },
  );
  const [line] = await Promise.race([once(registry.stdout, "data"), registry.ended.then(() => ["ended"])]);
  if (!String(line).startsWith("serves")) throw new Error("The registry of the test images does not start");
  return {
    prefix,
    cniDirectory: writeCniConfiguration(dir),
    registryDirectory: writeHosts(dir),
    async [Symbol.asyncDispose]() {
      await registry[Symbol.asyncDispose]();
      sh("ip", "netns", "delete", dir.token);
    },
  };
}

function writeCniConfiguration(dir: TempDir): string {
  const directory = dir.join("cni");
  mkdirSync(directory);
  const ipam = {
    type: "host-local",
    dataDir: dir.join("ipam"),
    ranges: [[{ subnet: "10.88.0.0/24" }]],
    routes: [{ dst: "0.0.0.0/0" }],
  };
  const plugins = [
    { type: "bridge", bridge: "pods0", isGateway: true, ipMasq: false, hairpinMode: true, ipam },
    { type: "portmap", capabilities: { portMappings: true } },
  ];
  const list = { cniVersion: "1.0.0", name: `pods-${dir.token}`, plugins };
  writeFileSync(join(directory, "10-pods.conflist"), JSON.stringify(list));
  return directory;
}

function writeHosts(dir: TempDir): string {
  const directory = dir.join("registries");
  for (const host of registryHosts) {
    mkdirSync(join(directory, host), { recursive: true });
    const url = `"http://127.0.0.1:${registryPort}"`;
    writeFileSync(
      join(directory, host, "hosts.toml"),
      `server = ${url}\n[host.${url}]\ncapabilities = ["pull", "resolve"]\n`,
    );
  }
  return directory;
}
