import type { Spec } from "../oci/spec.ts";

// In the guest: the agent's file, which is this program under this name (guest-agent/src/idle.rs).
const agentPath = "/sbin/caisson-agent";
// Below /dev, which is a tmpfs in every container: no file appears in its image.
const idlePath = "/dev/caisson-idle";

/** The guest's configuration of a container whose init only waits for its end, so that it needs no program of its own. */
export function withIdleInit(spec: Spec): Spec {
  const process = { ...spec.process, args: [idlePath], cwd: "/", terminal: false };
  return {
    ...spec,
    process: process as unknown as NonNullable<Spec["process"]>,
    mounts: [
      ...(spec.mounts ?? []),
      { destination: idlePath, type: "bind", source: agentPath, options: ["bind", "ro", "nosuid", "nodev"] },
    ],
  };
}
