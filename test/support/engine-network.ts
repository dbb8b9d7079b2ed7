import { execFileSync } from "node:child_process";

/**
 * A network namespace that an engine (Podman, dockerd) takes for the host's: its bridges and firewall rules are made in there and
 * go with it.
 */
export interface EngineNetwork extends Disposable {
  readonly path: string;
  /** A command line that runs in it. Mounts stay those of the machine. */
  inside(this: void, argv: readonly string[]): string[];
}

/** Makes it; `name` must be unique on the host. */
export function makeEngineNetwork(name: string): EngineNetwork {
  execFileSync("ip", ["netns", "add", name]);
  execFileSync("ip", ["-n", name, "link", "set", "lo", "up"]);
  const path = `/run/netns/${name}`;
  return {
    path,
    inside: (argv) => ["nsenter", `--net=${path}`, "--", ...argv],
    [Symbol.dispose]: () => void execFileSync("ip", ["netns", "delete", name]),
  };
}
