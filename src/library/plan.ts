import type { Image } from "../image/store.ts";
import { buildSpec, mergeEnvironment, type ProcessSpec, type SpecRequest } from "../image/spec.ts";
import { type ContainerUser, resolveUser } from "../image/users.ts";
import type { SandboxOptions, SpawnOptions } from "./options.ts";

/** What follows from a sandbox's options and its image. */
export interface SandboxPlan {
  /** The OCI runtime configuration. */
  readonly spec: object;
  /** What its processes have in common. */
  readonly process: ProcessSpec;
}

/** A configuration needs something to run; the guest runs the idle program in its stead. */
const idleArgs = ["idle"];
const hostname = "sandbox";
const defaultTerminal = { columns: 80, rows: 24 };

/** @throws invalid_argument  no such user in the image */
export async function planSandbox(
  sandboxId: string,
  options: SandboxOptions,
  image: Image,
): Promise<SandboxPlan> {
  const spec = await planSpec(options, image, { containerId: sandboxId, args: idleArgs, terminal: false });
  return {
    process: spec.process,
    spec: {
      ...spec,
      hostname,
      // The idle program needs nothing; what processes get, each exec says.
      process: { ...spec.process, user: { uid: 0, gid: 0 }, cwd: "/", env: [] },
    },
  };
}

/** What a sandbox and a container are told of in the same words. */
export type SpecOptions = Pick<SandboxOptions, "env" | "mounts" | "user" | "cwd" | "limits" | "network">;

/** @throws invalid_argument  no such user in the image */
export async function planSpec(
  options: SpecOptions,
  image: Image,
  own: Pick<SpecRequest, "containerId" | "args" | "terminal">,
) {
  const { limits = {}, network = "none" } = options;
  const spec = buildSpec({
    ...own,
    image: image.config,
    env: toEntries(options.env),
    volumes: (options.mounts ?? []).map(({ source, target, readOnly = false }) => ({
      source,
      destination: target,
      readOnly,
    })),
    user: await resolveUser(image.rootfs, options.user ?? image.config.user),
    workingDirectory: options.cwd,
    cpus: limits.cpus,
    memoryBytes: limits.memoryMiB === undefined ? undefined : limits.memoryMiB * 1024 ** 2,
  });
  const { linux } = spec;
  return {
    ...spec,
    linux: {
      ...linux,
      namespaces: linux.namespaces.map((namespace) =>
        namespace.type === "network" && network !== "none"
          ? { ...namespace, path: network.namespacePath }
          : namespace,
      ),
      resources: {
        ...linux.resources,
        ...(limits.pids === undefined ? {} : { pids: { limit: limits.pids } }),
      },
    },
  };
}

/** The OCI process of a command. @throws invalid_argument  no such user in the image */
export async function planProcess(
  own: ProcessSpec,
  args: readonly string[],
  options: SpawnOptions,
  findUser: (text: string) => Promise<ContainerUser>,
): Promise<object> {
  const { tty = false } = options;
  const size = typeof tty === "object" ? tty : defaultTerminal;
  const env = [...own.env, ...(tty === false ? [] : ["TERM=xterm"]), ...toEntries(options.env)];
  return {
    ...own,
    args,
    terminal: tty !== false,
    ...(tty === false ? {} : { consoleSize: { width: size.columns, height: size.rows } }),
    env: mergeEnvironment(env),
    cwd: options.cwd ?? own.cwd,
    user: options.user === undefined ? own.user : await findUser(options.user),
  };
}

function toEntries(env: Readonly<Record<string, string>> | undefined): string[] {
  return Object.entries(env ?? {}).map(([name, value]) => `${name}=${value}`);
}
