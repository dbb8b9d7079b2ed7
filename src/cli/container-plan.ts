import { randomBytes } from "node:crypto";
import { RuntimeError } from "../base/errors.ts";
import type { AcceleratorSetting } from "../config/config.ts";
import type { Image } from "../image/store.ts";
import { signalNumber } from "../client/signal-names.ts";
import { buildSpec, chooseArgs, type Volume } from "../image/spec.ts";
import { resolveUser } from "../image/users.ts";

/** The arguments of `run`, checked. */
export interface RunOptions {
  readonly image: string;
  readonly args: readonly string[];
  readonly containerId: string;
  readonly autoRemove: boolean;
  readonly detached: boolean;
  readonly interactive: boolean;
  readonly terminal: boolean;
  readonly env: readonly string[];
  readonly volumes: readonly Volume[];
  readonly workingDirectory?: string;
  readonly user?: string;
  readonly cpus?: number;
  readonly memoryBytes?: number;
  readonly kernelPath?: string;
  readonly accel?: AcceleratorSetting;
  readonly timeline: boolean;
  /** File that gets the timeline in the form that Perfetto reads. */
  readonly tracePath?: string;
}

/** Everything about a container that follows from the arguments and the image. */
export interface ContainerPlan {
  readonly spec: ReturnType<typeof buildSpec>;
  readonly stopSignal: number;
}

export function randomContainerId(): string {
  return randomBytes(6).toString("hex");
}

/** @throws invalid_argument  no command, an unknown user, a bad stop signal of the image */
export async function planContainer(options: RunOptions, image: Image): Promise<ContainerPlan> {
  const args = chooseArgs(image.config, options.args);
  if (args[0] === undefined || args[0] === "") {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot run image "${image.name}": it names no command, give one after the image`,
    );
  }
  return {
    stopSignal: signalNumber(image.config.stopSignal || "SIGTERM"),
    spec: buildSpec({
      containerId: options.containerId,
      image: image.config,
      args,
      env: options.env,
      volumes: options.volumes,
      user: await resolveUser(image.rootfs, options.user ?? image.config.user),
      terminal: options.terminal,
      workingDirectory: options.workingDirectory,
      cpus: options.cpus,
      memoryBytes: options.memoryBytes,
    }),
  };
}
