import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createLog } from "../../src/base/log.ts";
import { loadConfig } from "../../src/config/load.ts";
import { createQemuDriver } from "../../src/hypervisor/qemu/driver.ts";
import type { SpecHooks } from "../../src/oci/spec.ts";
import { createSandbox } from "../../src/sandbox/sandbox.ts";
import { buildPath } from "./cli-build.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

export interface ModelContainerOptions {
  readonly command: readonly string[];
  readonly hooks?: SpecHooks;
  /** Called between Create and Start with the pid that Create returned. */
  readonly beforeStart?: (pid: number) => void;
}

export interface ModelContainerResult {
  readonly exitCode: number;
  readonly output: string;
  /** MAC address of eth0 in the sandbox's namespace on the host; empty without one. */
  readonly linkAddress: string;
}

/** Runs one container through the model itself, as the library does, and deletes it. */
export async function runModelContainer(options: ModelContainerOptions): Promise<ModelContainerResult> {
  await using dir = createTempDir();
  const bundle = makeBundle(dir, options);
  const output = dir.join("output");
  writeFileSync(output, "");
  const config = {
    ...loadConfig({ environment: {}, executableDirectory: buildPath("lib") }),
    stateDirectory: dir.join("run"),
  };
  const sandbox = createSandbox({
    namespace: dir.token,
    sandboxId: dir.token,
    config,
    hypervisor: createQemuDriver(config),
    log: createLog("error", process.stderr),
    emit: () => {},
  });
  try {
    const stdio = { stdin: "", stdout: output, stderr: output, terminal: false };
    const container = await sandbox.createContainer(
      { containerId: dir.token, bundle, rootfs: [], stdio, noPivotRoot: false },
      { signal: AbortSignal.timeout(120_000) },
    );
    const { pid } = container.init;
    options.beforeStart?.(pid);
    const linkAddress = addressOf(pid);
    await container.start("");
    const { exitCode } = await container.init.wait();
    await container.delete("");
    return { exitCode, output: readFileSync(output, "utf8"), linkAddress };
  } finally {
    await sandbox.close();
  }
}

function makeBundle(dir: TempDir, { command, hooks = {} }: ModelContainerOptions): string {
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
    linux: { namespaces: ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type })) },
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
