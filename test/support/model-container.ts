import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { Cleanup } from "../../src/base/cleanup.ts";
import { createLog } from "../../src/base/log.ts";
import type { Config } from "../../src/config/config.ts";
import { loadConfig } from "../../src/config/load.ts";
import { createQemuDriver } from "../../src/hypervisor/qemu/driver.ts";
import type { SpecHooks } from "../../src/oci/spec.ts";
import type { Container, Sandbox } from "../../src/sandbox/model.ts";
import { createSandbox } from "../../src/sandbox/sandbox.ts";
import { buildPath } from "./cli-build.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

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
  output(): string;
}

export async function startModelContainer(options: ModelContainerOptions): Promise<ModelContainer> {
  await using cleanup = new Cleanup();
  const dir = createTempDir();
  cleanup.defer("directory", () => dir[Symbol.asyncDispose]());
  const bundle = makeBundle(dir, options);
  const output = dir.join("output");
  writeFileSync(output, "");
  const config = {
    ...loadConfig({ environment: {}, executableDirectory: buildPath("lib") }),
    stateDirectory: dir.join("run"),
    ...options.settings,
  };
  const sandbox = createSandbox({
    namespace: dir.token,
    sandboxId: dir.token,
    config,
    hypervisor: createQemuDriver(config),
    log: createLog("error", process.stderr),
    emit: () => {},
  });
  cleanup.defer("sandbox", () => sandbox.close());
  const stdio = { stdin: "", stdout: output, stderr: output, terminal: false };
  const container = await sandbox.createContainer(
    { containerId: dir.token, bundle, rootfs: [], stdio, noPivotRoot: false },
    { signal: AbortSignal.timeout(120_000) },
  );
  const { pid } = container.init;
  options.beforeStart?.(pid);
  const linkAddress = addressOf(pid);
  await container.start("");
  const owned = cleanup.move();
  return {
    dir,
    sandbox,
    container,
    linkAddress,
    output: () => readFileSync(output, "utf8"),
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

function makeBundle(dir: TempDir, { command, hooks = {}, netnsPath = "" }: ModelContainerOptions): string {
  const bundle = dir.join("bundle");
  const bin = `${bundle}/rootfs/bin`;
  mkdirSync(bin, { recursive: true });
  for (const name of ["proc", "sys", "dev", "tmp"]) mkdirSync(`${bundle}/rootfs/${name}`);
  execFileSync("cp", ["/bin/busybox", bin]);
  execFileSync("/bin/busybox", ["--install", "-s", bin]);
  execFileSync("sh", [
    "-c",
    `for link in ${bin}/*; do [ -L "$link" ] && ln -sfn busybox "$link"; done; true`,
  ]);
  const mounts = [
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
  ];
  const capabilities = ["CAP_NET_RAW"];
  const spec = {
    ociVersion: "1.0.2",
    process: {
      user: { uid: 0, gid: 0 },
      args: command,
      env: ["PATH=/bin"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    },
    root: { path: "rootfs" },
    mounts,
    hooks,
    linux: {
      namespaces: [
        ...["pid", "mount", "ipc", "uts"].map((type) => ({ type })),
        { type: "network", path: netnsPath },
      ],
    },
  };
  writeFileSync(`${bundle}/config.json`, JSON.stringify(spec));
  return bundle;
}

function addressOf(pid: number): string {
  const argv = [`--net=/proc/${pid}/ns/net`, "ip", "-json", "link"];
  const links = JSON.parse(execFileSync("nsenter", argv, { encoding: "utf8" })) as {
    ifname: string;
    address: string;
  }[];
  return links.find(({ ifname }) => ifname === "eth0")?.address ?? "";
}
