import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { identify, type ProcessIdentity } from "../base/processes.ts";
import type { Log } from "../base/log.ts";
import type { Config } from "../config/config.ts";
import { loadConfig } from "../config/load.ts";
import { type Image, openImage } from "../image/store.ts";
import type { SandboxOptions } from "./options.ts";

/** The namespace of all sandboxes that programs have made with the library. */
export const namespace = "library";

/** Where the things of one sandbox lie, beside its state. */
export interface SandboxDirectories {
  readonly directory: string;
  readonly bundle: string;
  readonly upper: string;
  readonly work: string;
}

/** @throws permission_denied */
export function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new RuntimeError(
    "permission_denied",
    "Cannot work with sandboxes: it needs root, for mounts and for the users that VMs run as",
  );
}

/** The configuration of this machine. @throws invalid_argument, not_found */
export function openConfig(): Config {
  // `build/dist` in a checkout and in the npm package; run as sources, the checkout's build is used.
  const here = import.meta.dirname;
  const build = here.endsWith("/src/library") ? join(here, "../../build") : join(here, "..");
  return loadConfig({ environment: process.env, executableDirectory: join(build, "lib") });
}

/** The same with what a program asks for. */
export function configOf({
  accelerator,
  memoryMiB,
  vcpus,
}: Pick<SandboxOptions, "accelerator" | "memoryMiB" | "vcpus">): Config {
  const config = openConfig();
  return {
    ...config,
    ...(accelerator === undefined ? {} : { accel: accelerator }),
    ...(memoryMiB === undefined ? {} : { memoryMiB }),
    ...(vcpus === undefined ? {} : { vcpus }),
  };
}

/** Fetched and unpacked unless it was before. @throws as `openImage` */
export function openHostImage(
  name: string,
  { config, log, signal }: { readonly config: Config; readonly log: Log; readonly signal: AbortSignal },
): Promise<Image> {
  return openImage(name, {
    imagesDirectory: join(config.dataDirectory, "images"),
    signal,
    report: (text) => log.info(text),
    environment: process.env,
  });
}

/** A new id. It names its owner, so that what a dead one left can be told from what is in use. */
export function newSandboxId(): string {
  const startTicks = identify(process.pid)?.startTicks ?? "0";
  return `s-${process.pid}-${startTicks}-${randomBytes(4).toString("hex")}`;
}

/** The process that made a sandbox, or undefined for what is no id of ours. */
export function ownerOf(sandboxId: string): ProcessIdentity | undefined {
  const [, pid, startTicks] = /^s-(\d{1,10})-(\d{1,20})-[0-9a-f]{8}$/.exec(sandboxId) ?? [];
  return pid === undefined || startTicks === undefined ? undefined : { pid: Number(pid), startTicks };
}

export function sandboxesDirectory({ dataDirectory }: Pick<Config, "dataDirectory">): string {
  return join(dataDirectory, "sandboxes");
}

export function directoriesOf(config: Pick<Config, "dataDirectory">, sandboxId: string): SandboxDirectories {
  const directory = join(sandboxesDirectory(config), sandboxId);
  return {
    directory,
    bundle: join(directory, "bundle"),
    upper: join(directory, "upper"),
    work: join(directory, "work"),
  };
}
