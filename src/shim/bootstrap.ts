import { RuntimeError } from "../base/errors.ts";
import { containerd, google } from "../gen/bootstrap.js";

/** What stdin of `start` told. */
export interface Bootstrap {
  /** The caller is a containerd from 2.3 on. */
  readonly isCurrent: boolean;
  /** Runtime options; undefined when none were given. */
  readonly options: { readonly typeUrl: string; readonly value: Uint8Array } | undefined;
  /** Directory for the socket, when the caller has a wish. */
  readonly socketDirectory: string | undefined;
  /** Address for events; empty: take the environment's. */
  readonly ttrpcAddress: string;
  readonly debug: boolean;
}

const { BootstrapParams, LogLevel } = containerd.runtime.bootstrap.v1;
const nothing: Bootstrap = {
  isCurrent: false,
  options: undefined,
  socketDirectory: undefined,
  ttrpcAddress: "",
  debug: false,
};

/**
 * Reads stdin of `start`: `BootstrapParams` from containerd 2.3 on, before that an `Any` with the runtime options, or
 * nothing. An `Any` also parses as `BootstrapParams`, so the ids decide which one it is.
 *
 * @throws invalid_argument  neither of them
 */
export function readBootstrap(bytes: Uint8Array, id: string, namespace: string): Bootstrap {
  if (bytes.length === 0) return nothing;
  const params = attempt(() => BootstrapParams.decode(bytes));
  if (params !== undefined && params.instanceId === id && params.namespace === namespace) {
    return {
      isCurrent: true,
      options: firstOptions(params.extensions ?? []),
      socketDirectory: params.socketDir || undefined,
      ttrpcAddress: params.containerdTtrpcAddress,
      debug: params.logLevel <= LogLevel.DEBUG,
    };
  }
  const any = attempt(() => google.protobuf.Any.decode(bytes));
  if (any === undefined || any.type_url === "") {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot read the ${bytes.length} bytes on stdin: expected BootstrapParams for this id and namespace, or options`,
    );
  }
  return { ...nothing, options: { typeUrl: any.type_url, value: any.value } };
}

function firstOptions(extensions: readonly containerd.runtime.bootstrap.v1.Extension.$Properties[]) {
  // An extension of a type that nobody here knows is passed on; the reader of the options ignores it with a warning.
  const value = extensions.find((extension) => extension.value?.type_url?.endsWith(".Options"))?.value;
  return value ? { typeUrl: value.type_url ?? "", value: value.value ?? new Uint8Array() } : undefined;
}

function attempt<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch {
    // Not of this type; the caller tries the next one.
    return undefined;
  }
}
