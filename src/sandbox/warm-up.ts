import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Agent } from "../agent-client/agent.ts";
import { guestShareDirectory } from "../agent-client/guest-mounts.ts";
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
/** Where the program is in the container. */
const programName = "program";

export interface WarmUp {
  readonly agent: Agent;
  readonly host: Pick<HostState, "shared" | "journal">;
  /** A static executable of ours that says its version and ends. */
  readonly program: string;
  /** Resolves when the agent has told the exit of the container of this id. */
  readonly exited: (containerId: string) => Promise<void>;
}

/**
 * Runs a container of a program of ours in a guest that has none, its root on the share as that of any other, and removes it: what crun
 * and the kernel do for the first one is then read, and translated where the CPU is emulated. Nothing of anybody's runs.
 */
export async function warmUp({ agent, host, program, exited }: WarmUp, signal: AbortSignal): Promise<void> {
  const process = { containerId, execId: "" };
  host.journal.add({ kind: "container", containerId });
  const fill = (path: string) => fillRoot(path, program);
  const root = join(guestShareDirectory, await host.shared.addScratchRootfs(containerId, fill));
  await agent.createContainer(
    {
      containerId,
      ociConfigJson: Buffer.from(JSON.stringify(warmUpSpec(root))),
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
  await end;
  await agent.deleteProcess(process, signal);
  await host.shared.removeContainer(containerId);
}

/** crun makes the mount points, and reads the user's entry. */
function fillRoot(path: string, program: string): void {
  mkdirSync(join(path, "etc"));
  writeFileSync(join(path, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  copyFileSync(program, join(path, programName));
  chmodSync(join(path, programName), 0o755);
}

/** Much as containerd makes it. */
function warmUpSpec(root: string): Spec {
  const capabilities = defaultCapabilities;
  return {
    ociVersion: "1.0.2",
    root: { path: root },
    hostname: "warm-up",
    process: {
      args: [`/${programName}`, "-v"],
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
