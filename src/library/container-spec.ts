import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { checkId } from "../base/ids.ts";
import { chooseArgs } from "../image/spec.ts";
import { openImage } from "../image/store.ts";
import { checkContainerSpecOptions } from "./check.ts";
import { openConfig } from "./host.ts";
import type { SandboxOptions } from "./options.ts";
import { planSpec, type SpecOptions } from "./plan.ts";

/** What a container's configuration is made from. Names that `Sandbox.create` has too mean the same. */
export interface ContainerSpecOptions extends SpecOptions, Pick<SandboxOptions, "signal"> {
  /** Of the container; the beginning of it becomes its host name. */
  readonly id: string;
  /** As for `Sandbox.create`. What it says of environment, command, working directory and user holds unless something else is said here. */
  readonly image: string;
  /** Go behind the image's entry point, in place of its command. */
  readonly args?: readonly string[];
  /** Its first process has a terminal. Default: false. */
  readonly terminal?: boolean;
}

/**
 * An OCI runtime configuration as `Container.create` and `TaskManager` take it (`config.json` of a bundle), with the capabilities, mounts,
 * masked paths and limits of files that `caisson run` gives. The image is fetched and unpacked unless it was before. The result is
 * plain JSON and the caller's to change.
 *
 * @throws invalid_argument  an option or the image is wrong, there is no such user in it, or nothing says what is run
 * @throws not_found         there is no such image
 * @throws unavailable, canceled
 */
export async function containerSpec(options: ContainerSpecOptions): Promise<object> {
  checkContainerSpecOptions(options);
  const { id, image: name, args = [], terminal = false } = options;
  checkId("container id", id);
  const image = await openImage(name, {
    imagesDirectory: join(openConfig().dataDirectory, "images"),
    signal: options.signal ?? new AbortController().signal,
    report: () => {},
    environment: process.env,
  });
  const command = chooseArgs(image.config, args);
  if (command[0] === undefined || command[0] === "")
    throw new RuntimeError("invalid_argument", `Cannot run image "${name}": it names no command; give args`);
  return await planSpec(options, image, { containerId: id, args: command, terminal });
}
