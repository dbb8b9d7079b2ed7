import { RuntimeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ConfigSource } from "../config/load.ts";
import { caisson } from "../gen/bootstrap.js";
import { containerd, runtimeoptions } from "../gen/options.js";

/** Options as they came: of a runtime on stdin of `start`, of a task in Create. */
export interface RawOptions {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** What options say here, by their type. */
export type Options =
  /** Of runc, which every containerd may send to any shim. */
  | { readonly tag: "runc"; readonly noPivotRoot: boolean; readonly shimCgroup: string }
  /** Of runtimes without a type of their own: settings for this sandbox. */
  | { readonly tag: "settings"; readonly sources: readonly ConfigSource[] }
  /** Of our own OCI command line. */
  | { readonly tag: "own"; readonly options: CreateOptions }
  | { readonly tag: "unknown"; readonly type: string };

/** Of the type caisson.shim.v1.CreateOptions. */
type CreateOptions = Pick<
  caisson.shim.v1.CreateOptions,
  "notify" | "descriptorsPid" | "descriptors" | "environment"
>;

/** What the options of a Create mean for its container. */
export interface TaskOptions {
  readonly noPivotRoot: boolean;
  readonly own: CreateOptions | undefined;
}

const maxBodyBytes = 1024 * 1024;

/**
 * Reads runtime or task options.
 *
 * @throws invalid_argument  a known type that cannot be decoded
 */
export function readOptions({ typeUrl, value }: RawOptions): Options {
  // containerd leaves the prefix "type.googleapis.com/" out; protobuf's own libraries write it.
  const type = typeUrl.slice(typeUrl.lastIndexOf("/") + 1);
  try {
    switch (type) {
      case "containerd.runc.v1.Options": {
        const { noPivotRoot, shimCgroup } = containerd.runc.v1.Options.decode(value);
        return { tag: "runc", noPivotRoot, shimCgroup };
      }
      case "runtimeoptions.v1.Options":
        return { tag: "settings", sources: settingsOf(runtimeoptions.v1.Options.decode(value)) };
      case "caisson.shim.v1.CreateOptions":
        return { tag: "own", options: caisson.shim.v1.CreateOptions.decode(value) };
      default:
        return { tag: "unknown", type };
    }
  } catch (cause) {
    if (cause instanceof RuntimeError) throw cause;
    throw new RuntimeError("invalid_argument", `Cannot decode the options of type "${type}"`, { cause });
  }
}

/** The file first, then the text: what stands in the client's own configuration wins. */
function settingsOf({ configPath, configBody }: runtimeoptions.v1.Options): ConfigSource[] {
  if (configBody.length > maxBodyBytes) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot use the runtime options: config_body has ${configBody.length} bytes, at most ${maxBodyBytes} are accepted`,
    );
  }
  const text = Buffer.from(configBody).toString("utf8");
  const sources: ConfigSource[] = [];
  if (configPath !== "") sources.push({ tag: "file", path: configPath });
  if (text !== "") sources.push({ tag: "text", name: "config_body of the runtime options", text });
  return sources;
}

/**
 * Reads the options of a Create. Settings are of the sandbox: they were read when its daemon
 * started, and are repeated here by every containerd.
 *
 * @throws invalid_argument  a known type that cannot be decoded
 */
export function readTaskOptions(
  any: { readonly type_url?: string | null; readonly value?: Uint8Array | null } | null | undefined,
  ofSandbox: RawOptions | undefined,
  log: Log,
): TaskOptions {
  const none: TaskOptions = { noPivotRoot: false, own: undefined };
  if (any === null || any === undefined || !any.type_url) return none;
  const raw: RawOptions = { typeUrl: any.type_url, value: any.value ?? new Uint8Array() };
  const options = readOptions(raw);
  switch (options.tag) {
    case "runc":
      return { ...none, noPivotRoot: options.noPivotRoot };
    case "own":
      return { ...none, own: options.options };
    case "settings":
      if (options.sources.length > 0 && !isSame(raw, ofSandbox)) {
        log.warn("settings in the options of this container are ignored: its sandbox has others already");
      }
      return none;
    case "unknown":
      log.warn({ type: options.type }, "task options of this type are ignored");
      return none;
  }
}

/** Where the sandbox's settings come from, as the options on stdin of `start` say it. */
export function readSandboxOptions(raw: RawOptions | undefined): {
  readonly sources: readonly ConfigSource[];
  readonly warning: string | undefined;
} {
  if (raw === undefined) return { sources: [], warning: undefined };
  const options = readOptions(raw);
  return {
    sources: options.tag === "settings" ? options.sources : [],
    warning:
      options.tag === "unknown" ? `runtime options of the type "${options.type}" are ignored` : undefined,
  };
}

function isSame(one: RawOptions, other: RawOptions | undefined): boolean {
  return other !== undefined && one.typeUrl === other.typeUrl && Buffer.from(one.value).equals(other.value);
}
