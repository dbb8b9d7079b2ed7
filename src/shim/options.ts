import { RuntimeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { containerd } from "../gen/containerd.js";

/** A google.protobuf.Any as it came. */
export interface AnyMessage {
  readonly type_url?: string | null;
  readonly value?: Uint8Array | null;
}

/** The task options that mean something here. */
export interface TaskOptions {
  readonly noPivotRoot: boolean;
}

const noOptions: TaskOptions = { noPivotRoot: false };

/**
 * Reads the options of Create. Every containerd sends runc's to any shim, so those are understood; others are ignored
 * with a warning.
 *
 * @throws invalid_argument  runc's options that cannot be decoded
 */
export function readTaskOptions(any: AnyMessage | null | undefined, log: Log): TaskOptions {
  if (any === null || any === undefined || !any.type_url) return noOptions;
  // containerd leaves the prefix "type.googleapis.com/" out; protobuf's own libraries write it.
  const type = any.type_url.slice(any.type_url.lastIndexOf("/") + 1);
  if (type !== "containerd.runc.v1.Options") {
    log.warn({ type }, "task options of this type are ignored");
    return noOptions;
  }
  try {
    const { noPivotRoot } = containerd.runc.v1.Options.decode(any.value ?? new Uint8Array());
    return { noPivotRoot };
  } catch (cause) {
    throw new RuntimeError("invalid_argument", `Cannot decode the task options of type "${type}"`, { cause });
  }
}
