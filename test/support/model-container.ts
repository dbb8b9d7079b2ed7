import { execFileSync } from "node:child_process";
import { Cleanup } from "../../src/base/cleanup.ts";
import type { Config } from "../../src/config/config.ts";
import { defaultNamespaces } from "../../src/oci/spec-defaults.ts";
import type { SpecHooks } from "../../src/oci/spec.ts";
import type { Container, Sandbox } from "../../src/sandbox/model.ts";
import { createPod } from "./model-pod.ts";
import type { TempDir } from "./temp-dir.ts";

export interface ModelContainerOptions {
  readonly command: readonly string[];
  readonly hooks?: SpecHooks;
  /** Network namespace to be in. Default: one of its own without links. */
  readonly netnsPath?: string;
  /** Of the configuration. */
  readonly settings?: Partial<Config>;
  /** Called between Create and Start with the pid that Create returned. */
  readonly beforeStart?: (pid: number) => void;
}

/** A container that was started through the model itself, as the library does. Disposing ends it with its sandbox. */
export interface ModelContainer extends AsyncDisposable {
  readonly dir: TempDir;
  readonly sandbox: Sandbox;
  readonly container: Container;
  /** MAC address of eth0 in the sandbox's namespace on the host; empty without one. */
  readonly linkAddress: string;
  /** Stdout and stderr up to now. */
  readonly output: () => string;
}

export async function startModelContainer(options: ModelContainerOptions): Promise<ModelContainer> {
  await using cleanup = new Cleanup();
  const pod = createPod(options.settings);
  cleanup.defer("pod", () => pod[Symbol.asyncDispose]());
  const { container, output } = await pod.create("", options.command, {
    hooks: options.hooks ?? {},
    namespaces: defaultNamespaces.map((type) => ({
      type,
      ...(type === "network" ? { path: options.netnsPath ?? "" } : {}),
    })),
  });
  const { pid } = container.init;
  options.beforeStart?.(pid);
  const linkAddress = addressOf(pid);
  await container.start("");
  const owned = cleanup.move();
  return {
    dir: pod.dir,
    sandbox: pod.sandbox,
    container,
    linkAddress,
    output,
    [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose](),
  };
}

export interface ModelContainerResult {
  readonly exitCode: number;
  readonly output: string;
  readonly linkAddress: string;
}

/** Runs one to its end and deletes it. */
export async function runModelContainer(options: ModelContainerOptions): Promise<ModelContainerResult> {
  await using started = await startModelContainer(options);
  const { exitCode } = await started.container.init.wait();
  await started.container.delete("");
  return { exitCode, output: started.output(), linkAddress: started.linkAddress };
}

function addressOf(pid: number): string {
  const argv = [`--net=/proc/${pid}/ns/net`, "ip", "-json", "link"];
  const links = JSON.parse(execFileSync("nsenter", argv, { encoding: "utf8" })) as {
    ifname: string;
    address: string;
  }[];
  return links.find(({ ifname }) => ifname === "eth0")?.address ?? "";
}
