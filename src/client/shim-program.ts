import { RuntimeError } from "../base/errors.ts";
import { containerd } from "../gen/containerd.js";
import { runChild } from "../base/child.ts";

// Starting the daemon boots nothing yet; `delete` has to end a VM and its helpers.
const startTimeoutMs = 30_000;
const deleteTimeoutMs = 30_000;

/** The short-lived side of the shim's executable, run as containerd runs it, for one container. */
export interface ShimProgram {
  readonly path: string;
  readonly namespace: string;
  readonly containerId: string;
  /** Where it runs and leaves its address; of the task's own bundle it knows only from Create. */
  readonly bundle: string;
  /** The configuration file. */
  readonly config: string;
  /** Node that runs it; default: the one beside it. */
  readonly nodePath?: string;
}

/** What a runtime says about itself (`-info`). */
export interface RuntimeInfo {
  readonly name: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** Asks the runtime about itself. @throws not_found, unavailable */
export async function readRuntimeInfo(
  shim: Pick<ShimProgram, "path" | "config" | "nodePath">,
): Promise<RuntimeInfo> {
  const output = await runChild([shim.path, "-info"], {
    action: `ask the runtime "${shim.path}" about itself`,
    cwd: "/",
    timeoutMs: startTimeoutMs,
    environment: environmentOf(shim),
  });
  // Needed by few.
  const bootstrap = await import("../gen/bootstrap.js");
  const { name, annotations } = decodeAnswer(output, "-info", (bytes) =>
    bootstrap.containerd.types.RuntimeInfo.decode(bytes),
  );
  return { name, annotations };
}

/** Starts the daemon; returns the address of its task API. */
export async function startShim(shim: ShimProgram, options: { signal: AbortSignal }): Promise<string> {
  const output = Buffer.from(
    await runShim(shim, "start", { timeoutMs: startTimeoutMs, signal: options.signal }),
  );
  const text = output.toString("utf8").trim();
  // Plain, or the JSON form that containerd 2 also takes.
  const address = text.startsWith("{") ? (JSON.parse(text) as { address?: unknown }).address : text;
  if (typeof address !== "string" || !address.startsWith("unix://")) {
    throw new RuntimeError(
      "internal",
      `Cannot start the shim of "${shim.containerId}": it printed ${JSON.stringify(text.slice(0, 200))}, expected an address`,
    );
  }
  return address;
}

/**
 * Ends the daemon, whatever state it is in, and removes everything that it has made. Works when it is dead too.
 * Returns the exit code of the container's process as far as it is known, else 137.
 */
export async function deleteShim(shim: ShimProgram): Promise<number> {
  const output = await runShim(shim, "delete", { timeoutMs: deleteTimeoutMs });
  if (output.length === 0) return 137;
  const response = decodeAnswer(output, "delete", (bytes) => containerd.task.v2.DeleteResponse.decode(bytes));
  return response.exitStatus & 0xff;
}

/** @throws internal  the answer is no message of the kind expected; the error shows what it is */
function decodeAnswer<T>(output: Uint8Array, action: string, decode: (bytes: Uint8Array) => T): T {
  try {
    return decode(output);
  } catch (cause) {
    const text = JSON.stringify(Buffer.from(output).toString("latin1").slice(0, 200));
    throw new RuntimeError("internal", `Cannot understand what the shim's ${action} printed: ${text}`, {
      cause,
    });
  }
}

async function runShim(
  shim: ShimProgram,
  action: "start" | "delete",
  limits: { timeoutMs: number; signal?: AbortSignal },
): Promise<Uint8Array> {
  const { path, namespace, containerId, bundle } = shim;
  const flags = ["-namespace", namespace, "-id", containerId, "-address", "", "-publish-binary", ""];
  const argv = [path, ...flags, ...(action === "delete" ? ["-bundle", bundle] : []), action];
  return runChild(argv, {
    ...limits,
    action: `${action} the shim of "${containerId}"`,
    cwd: bundle,
    environment: environmentOf(shim),
  });
}

function environmentOf({
  config,
  nodePath,
}: Pick<ShimProgram, "config" | "nodePath">): Record<string, string> {
  return { CAISSON_CONFIG: config, ...(nodePath === undefined ? {} : { CAISSON_NODE: nodePath }) };
}
