import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createLog } from "../../src/base/log.ts";
import {
  defaultCapabilities,
  defaultMounts,
  defaultNamespaces,
  maskedPaths,
  readonlyPaths,
} from "../../src/oci/spec-defaults.ts";
import type { Config } from "../../src/config/config.ts";
import { loadConfig } from "../../src/config/load.ts";
import { createCloudHypervisorDriver } from "../../src/hypervisor/cloud-hypervisor/driver.ts";
import { createQemuDriver } from "../../src/hypervisor/qemu/driver.ts";
import type { Container, Process, Sandbox } from "../../src/sandbox/model.ts";
import { createSandbox } from "../../src/sandbox/sandbox.ts";
import { buildPath } from "./cli-build.ts";
import type { LeakScope } from "./leaks-scope.ts";
import { patient } from "./patience.ts";
import { suiteSettings, usesQemu } from "./suite-settings.ts";
import { createTempDir, type TempDir } from "./temp-dir.ts";

/** How a container's specification differs from the usual one; lists are added, the rest replaces. */
export interface SpecChanges {
  readonly process?: object;
  readonly root?: object;
  readonly mounts?: readonly object[];
  /** Places of usual mounts that it is to lack. */
  readonly withoutMounts?: readonly string[];
  readonly namespaces?: readonly { readonly type: string; readonly path?: string }[];
  readonly linux?: object;
  readonly hooks?: object;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Outcome {
  readonly exitCode: number;
  /** Stdout and stderr. */
  readonly output: string;
}

export interface PodContainer {
  readonly container: Container;
  /** Runs a shell script in it. */
  sh(script: string, process?: object): Promise<Outcome>;
  /** What init has written. */
  readonly output: () => string;
  /** Kills init, waits for its end and deletes the container. */
  remove(): Promise<void>;
}

/** A sandbox of the model, as the library runs it: its first container boots the VM. */
export interface Pod extends AsyncDisposable {
  readonly dir: TempDir;
  readonly sandbox: Sandbox;
  /** A bundle of busybox; all bundles share one root file system unless `changes.root` says otherwise. */
  bundle(name: string, args: readonly string[], changes?: SpecChanges): string;
  /** Creates a container, not started. The one called "" has the sandbox's id. */
  create(name: string, args: readonly string[], changes?: SpecChanges): Promise<PodContainer>;
  /** A container that sleeps, started. */
  start(name: string, changes?: SpecChanges): Promise<PodContainer>;
  /** Runs a shell script as init of a container, which is deleted. */
  run(name: string, script: string, changes?: SpecChanges): Promise<Outcome>;
  leakScope(): LeakScope;
}

/** Makes one without a VM yet. */
export function createPod(settings: Partial<Config> = {}): Pod {
  const dir = createTempDir();
  makeBusyboxRoot(dir.join("rootfs"));
  mkdirSync(dir.join("bundles"));
  const suite = {
    tag: "text",
    name: "CAISSON_TEST_SETTINGS",
    text: suiteSettings.replace(/^daemon = .*$/m, ""),
  } as const;
  const config = {
    ...loadConfig({ environment: {}, executableDirectory: buildPath("lib"), overrides: [suite] }),
    stateDirectory: dir.join("run"),
    ...settings,
  };
  const sandbox = createSandbox({
    namespace: dir.token,
    sandboxId: dir.token,
    config,
    hypervisor: usesQemu
      ? createQemuDriver(config)
      : createCloudHypervisorDriver({ ...config, warn: console.warn }),
    log: createLog("error", process.stderr),
    emit: () => {},
  });
  const pod: Pod = {
    dir,
    sandbox,
    bundle: (name, args, changes = {}) => {
      const bundle = dir.join("bundles", `b-${name}`);
      mkdirSync(bundle);
      writeFileSync(`${bundle}/config.json`, JSON.stringify(specOf(dir.join("rootfs"), args, changes)));
      return bundle;
    },
    create: async (name, args, changes) => {
      const bundle = pod.bundle(name, args, changes);
      const stdio = stdioTo(`${bundle}/output`);
      const container = await sandbox.createContainer(
        { containerId: `${dir.token}${name && "-"}${name}`, bundle, rootfs: [], stdio, noPivotRoot: false },
        { signal: AbortSignal.timeout(patient(120_000)) },
      );
      return podContainer(container, bundle);
    },
    start: async (name, changes) => {
      const made = await pod.create(name, ["sleep", "100000"], changes);
      await made.container.start("");
      // Written beside the work: a leak checker that has looked before takes it for left.
      await appears(join(config.stateDirectory, dir.token, dir.token, "timeline.json"));
      return made;
    },
    run: async (name, script, changes) => {
      const { container, output } = await pod.create(name, ["sh", "-c", script], changes);
      await container.start("");
      const { exitCode } = await container.init.wait();
      await container.delete("");
      return { exitCode, output: output() };
    },
    leakScope: () => ({ marks: [dir.token], directories: [dir.join("run")] }),
    async [Symbol.asyncDispose]() {
      await sandbox.close();
      await dir[Symbol.asyncDispose]();
    },
  };
  return pod;
}

async function appears(path: string): Promise<void> {
  const end = performance.now() + patient(30_000);
  while (!existsSync(path)) {
    if (performance.now() > end) throw new Error(`There is still no ${path}`);
    await sleep(20);
  }
}

/** A root file system with nothing but busybox and the places for the usual mounts. */
export function makeBusyboxRoot(root: string): void {
  mkdirSync(`${root}/bin`, { recursive: true });
  for (const name of ["proc", "sys", "dev", "tmp", "etc"]) mkdirSync(`${root}/${name}`);
  execFileSync("cp", ["/bin/busybox", `${root}/bin`]);
  const names = execFileSync("/bin/busybox", ["--list"], { encoding: "utf8" }).trim().split("\n");
  // Not by ln: four hundred processes take a minute in the lab.
  for (const name of names) if (name !== "busybox") symlinkSync("busybox", `${root}/bin/${name}`);
}

function stdioTo(path: string) {
  // Regular files are appended to.
  writeFileSync(path, "");
  return { stdin: "", stdout: path, stderr: path, terminal: false };
}

function podContainer(container: Container, bundle: string): PodContainer {
  let execs = 0;
  return {
    container,
    output: () => readFileSync(`${bundle}/output`, "utf8"),
    sh: async (script, changes = {}) => {
      const execId = `e${execs++}`;
      const path = `${bundle}/${execId}`;
      const exec: Process = await container.exec({
        execId,
        stdio: stdioTo(path),
        processJson: Buffer.from(JSON.stringify({ ...processOf(["sh", "-c", script]), ...changes })),
      });
      await container.start(execId);
      const { exitCode } = await exec.wait();
      await container.delete(execId);
      return { exitCode, output: readFileSync(path, "utf8") };
    },
    remove: async () => {
      await container.init.kill(9, true);
      await container.init.wait();
      await container.delete("");
    },
  };
}

function processOf(args: readonly string[]) {
  const capabilities = defaultCapabilities;
  return {
    user: { uid: 0, gid: 0 },
    args,
    env: ["PATH=/bin"],
    cwd: "/",
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
  };
}

function specOf(rootfs: string, args: readonly string[], changes: SpecChanges) {
  return {
    ociVersion: "1.0.2",
    process: { ...processOf(args), ...changes.process },
    root: { path: rootfs, ...changes.root },
    hostname: "pod",
    mounts: [
      ...defaultMounts.filter(
        ({ destination }) =>
          !changes.withoutMounts?.includes(destination) &&
          !changes.mounts?.some((mount) => (mount as { destination?: string }).destination === destination),
      ),
      ...(changes.mounts ?? []),
    ],
    hooks: changes.hooks ?? {},
    annotations: changes.annotations ?? {},
    linux: {
      namespaces: changes.namespaces ?? defaultNamespaces.map((type) => ({ type })),
      resources: { devices: [{ allow: false, access: "rwm" }] },
      maskedPaths,
      readonlyPaths,
      ...changes.linux,
    },
  };
}

/** Namespaces that join those of the sandbox, as CRI writes them, beside ones of its own. */
export function joinedNamespaces(sandbox: Sandbox, joined: readonly string[]) {
  return defaultNamespaces.map((type) =>
    joined.includes(type) ? { type, path: `/proc/${sandbox.pid}/ns/${type}` } : { type },
  );
}
