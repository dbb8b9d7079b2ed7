import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Agent } from "../agent-client/agent.ts";
import { guestShareDirectory } from "../agent-client/guest-mounts.ts";
import { withIdleInit } from "../agent-client/idle-init.ts";
import {
  defaultCapabilities,
  defaultMounts,
  defaultNamespaces,
  defaultRlimits,
  maskedPaths,
  readonlyPaths,
} from "../oci/spec-defaults.ts";
import type { Spec } from "../oci/spec.ts";
import type { HostState } from "./host-state.ts";

const containerId = "caisson-warm-up";
const sigkill = 9;

export interface WarmUp {
  readonly agent: Agent;
  readonly host: Pick<HostState, "shared" | "journal">;
  /** Resolves when the agent has told the exit of the container of this id. */
  readonly exited: (containerId: string) => Promise<void>;
}

/**
 * Makes a container of the agent's own idle program in a guest that has none, its root on the share as that of any other, and removes
 * it: what crun and the kernel do for the first one is then read, and translated where the CPU is emulated. Nothing of anybody's runs.
 */
export async function warmUp({ agent, host, exited }: WarmUp, signal: AbortSignal): Promise<void> {
  const process = { containerId, execId: "" };
  host.journal.add({ kind: "container", containerId });
  const root = join(guestShareDirectory, await host.shared.addScratchRootfs(containerId, fillRoot));
  await agent.createContainer(
    {
      containerId,
      ociConfigJson: Buffer.from(JSON.stringify(withIdleInit(warmUpSpec(root)))),
      stdio: { stdin: false, stdout: true, stderr: true, terminal: false, columns: 0, rows: 0 },
      noPivotRoot: false,
      storages: [],
      sharedNamespaces: [],
      disks: [],
      allDevices: false,
      volumes: [],
      notify: false,
      sysctls: {},
      descriptors: [],
      environment: [],
    },
    signal,
  );
  const end = exited(containerId);
  await agent.startProcess(process);
  await agent.signalProcess({ ...process, signal: sigkill, all: true }, signal);
  await end;
  await agent.deleteProcess(process, signal);
  await host.shared.removeContainer(containerId);
}

/** crun makes the mount points, and reads the user's entry. */
function fillRoot(path: string): void {
  chmodSync(path, 0o755);
  mkdirSync(join(path, "etc"));
  writeFileSync(join(path, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
}

/** Much as containerd makes it. */
function warmUpSpec(root: string): Spec {
  const capabilities = defaultCapabilities;
  return {
    ociVersion: "1.0.2",
    root: { path: root },
    hostname: "warm-up",
    process: {
      args: [],
      cwd: "/",
      user: { uid: 0, gid: 0 },
      env: [],
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: defaultRlimits,
      noNewPrivileges: true,
    },
    mounts: defaultMounts,
    linux: {
      cgroupsPath: `/containers/${containerId}`,
      namespaces: defaultNamespaces.filter((type) => type !== "network").map((type) => ({ type })),
      maskedPaths,
      readonlyPaths,
      resources: { devices: [{ allow: false, access: "rwm" }] },
    },
  } as unknown as Spec;
}
