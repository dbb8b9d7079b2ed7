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

const containerId = "caisson-warm-up";
/** In the guest, beside its share; crun makes the mount points. */
const rootDirectory = `${guestShareDirectory}-warm-up`;
const sigkill = 9;

/**
 * Makes a container of the agent's own idle program in a guest that has none, and removes it: what crun and the kernel do for the
 * first one is then read, and translated where the CPU is emulated. Nothing of anybody's runs.
 *
 * @param exited  resolves when the agent has told the exit of the container of this id
 */
export async function warmUp(
  agent: Agent,
  exited: (containerId: string) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const process = { containerId, execId: "" };
  await agent.createContainer(
    {
      containerId,
      ociConfigJson: Buffer.from(JSON.stringify(withIdleInit(warmUpSpec()))),
      stdio: { stdin: false, stdout: true, stderr: true, terminal: false, columns: 0, rows: 0 },
      noPivotRoot: false,
      storages: [{ type: "tmpfs", source: "", target: rootDirectory, options: ["size=1m", "mode=700"] }],
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
}

/** Much as containerd makes it. */
function warmUpSpec(): Spec {
  const capabilities = defaultCapabilities;
  return {
    ociVersion: "1.0.2",
    root: { path: rootDirectory },
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
