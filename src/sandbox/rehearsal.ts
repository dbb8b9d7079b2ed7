import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { AgentEvents } from "../agent-client/agent-types.ts";
import type { Config } from "../config/config.ts";
import { loadNative } from "../base/native.ts";
import { scope } from "../base/scope.ts";
import {
  defaultMounts,
  defaultNamespaces,
  defaultPrivileges,
  maskedPaths,
  readonlyPaths,
} from "../oci/spec-defaults.ts";
import type { Spec } from "../oci/spec.ts";
import type { SharedDir } from "../storage/shared-dir.ts";
import { createHostState, type HostState } from "./host-state.ts";
import { readyNamespace, rehearsalId, sandboxPaths } from "./paths.ts";
import type { SandboxVm } from "./vm.ts";
import type { VmSource } from "./vm-source.ts";

const containerId = "caisson-rehearsal";
const takeOutTimeoutMs = 4_000;
/** Where the program is in the container. */
const programName = "program";
/** FIFOs of the bundle. */
const stdioNames = { stdin: "stdin", stdout: "stdout", stderr: "stderr" } as const;

/** A VM that waits for its sandbox. */
export interface WaitingVm {
  readonly id: string;
  readonly config: Config;
  readonly vm: SandboxVm;
  readonly host: HostState;
  /** Has its events told to somebody. */
  deliverTo(events: AgentEvents): void;
  /** A static executable of ours that says its version and ends. */
  readonly program: string;
}

/** A sandbox of the name that is here, whose first boot takes a VM that waits, and whose end gives it back without a container. */
export interface Rehearsal {
  readonly namespace: string;
  readonly sandboxId: string;
  readonly containerId: string;
  /** There when `source` was claimed: a specification, and FIFOs. It goes with what the sandbox has on the host. */
  readonly bundle: string;
  readonly stdio: { readonly stdin: string; readonly stdout: string; readonly stderr: string };
  readonly source: VmSource & { claim(): Promise<HostState> };
  /** Settles when the sandbox has given the VM back. Rejects when something of the container is left in it. */
  readonly returned: Promise<void>;
}

/** Nothing of anybody's runs in a rehearsal: one container with a program of ours, its root on the share as that of any other. */
export function planRehearsal(waiting: WaitingVm): Rehearsal {
  const { config } = waiting;
  const sandboxId = rehearsalId(waiting.id);
  // Nobody has this directory: the VM has its own.
  const bundle = sandboxPaths(config.stateDirectory, readyNamespace, sandboxId).vm;
  let claimed: Promise<HostState> | undefined;
  const claim = () => (claimed ??= makeHost(waiting, sandboxId, bundle));
  const returned = Promise.withResolvers<void>();
  // Of a rehearsal that has failed before nobody asks.
  returned.promise.catch(() => {});
  const file = (name: string) => join(bundle, name);
  return {
    namespace: readyNamespace,
    sandboxId,
    containerId,
    bundle,
    stdio: {
      stdin: file(stdioNames.stdin),
      stdout: file(stdioNames.stdout),
      stderr: file(stdioNames.stderr),
    },
    source: {
      originMs: performance.now(),
      claim,
      createHost: claim,
      boot: ({ events }) => {
        waiting.deliverTo(events);
        return Promise.resolve(lend(waiting, returned));
      },
    },
    returned: returned.promise,
  };
}

/** A state of its own, with the share that the VM has in the place of its own. */
async function makeHost(waiting: WaitingVm, sandboxId: string, bundle: string): Promise<HostState> {
  const host = await createHostState(readyNamespace, sandboxId, waiting.config);
  host.shared[Symbol.dispose]();
  try {
    await mkdir(bundle, { mode: 0o700 });
    await writeFile(join(bundle, "config.json"), JSON.stringify(spec));
    for (const name of Object.values(stdioNames)) loadNative().makeFifo(join(bundle, name), 0o600);
    waiting.host.journal.add({ kind: "container", containerId });
    return { ...host, shared: lendShare(waiting) };
  } catch (error) {
    host.journal[Symbol.dispose]();
    throw error;
  }
}

/** Its root is made in memory, where the bundle would have it. */
function lendShare({ host: { shared }, program }: WaitingVm): SharedDir {
  return {
    path: shared.path,
    serve: () => {},
    abandon: () => {},
    addRootfs: (id) => shared.addScratchRootfs(id, (path) => fillRoot(path, program)),
    addScratchRootfs: (id, fill) => shared.addScratchRootfs(id, fill),
    addMount: (...args) => shared.addMount(...args),
    removeContainer: (id) => shared.removeContainer(id),
    [Symbol.dispose]: () => {},
  };
}

/** The end of it takes the container out of the guest and out of the share. */
function lend({ vm, host }: WaitingVm, returned: PromiseWithResolvers<void>): SandboxVm {
  const over = Promise.withResolvers<string>();
  const takeOut = async () => {
    using limit = scope(undefined, takeOutTimeoutMs, "the end of a rehearsal in the guest");
    await vm.agent.deleteProcess({ containerId, execId: "" }, limit.signal);
    vm.growth.remove(containerId);
    await host.shared.removeContainer(containerId);
  };
  return {
    ...vm,
    lost: Promise.race([vm.lost, over.promise]),
    [Symbol.asyncDispose]: () => {
      returned.resolve(takeOut());
      over.resolve("the rehearsal is over");
      return returned.promise;
    },
  };
}

/** crun makes the mount points, and reads the user's entry. */
function fillRoot(path: string, program: string): void {
  mkdirSync(join(path, "etc"));
  writeFileSync(join(path, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  copyFileSync(program, join(path, programName));
  chmodSync(join(path, programName), 0o755);
}

/** Much as containerd makes it. */
const spec = {
  ociVersion: "1.0.2",
  // See `lendShare`.
  root: { path: "." },
  hostname: "rehearsal",
  process: {
    args: [`/${programName}`, "-v"],
    cwd: "/",
    user: { uid: 0, gid: 0 },
    env: [],
    ...defaultPrivileges,
  },
  mounts: defaultMounts,
  linux: {
    cgroupsPath: `/${containerId}`,
    namespaces: defaultNamespaces.map((type) => ({ type })),
    maskedPaths,
    readonlyPaths,
    resources: { devices: [{ allow: false, access: "rwm" }] },
  },
} as unknown as Spec;
