import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError, errnoOf } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";

/** Longest path that bind(2) and containerd take (sun_path less its end). */
const maxPathBytes = 106;
const containerdSocketDirectory = "/run/containerd/s";

export interface SocketPathOptions {
  /** containerd's gRPC address; empty for our own command line. */
  readonly address: string;
  readonly namespace: string;
  readonly sandboxId: string;
  readonly stateDirectory: string;
  /** Overrides the directory. */
  readonly socketDirectory?: string | undefined;
}

/**
 * Path of the socket on which a sandbox's daemon serves. The name is containerd's convention, so that everyone finds
 * it; the command line's sandboxes lie in `<stateDirectory>/.shims`.
 *
 * @throws invalid_argument  it would be too long
 */
export function socketPath(options: SocketPathOptions): string {
  const { address, namespace, sandboxId } = options;
  const standard = address === "" ? join(options.stateDirectory, ".shims") : containerdSocketDirectory;
  const directory = options.socketDirectory ?? standard;
  // join() as Go's path.Join: an empty address vanishes.
  const name = createHash("sha256")
    .update(join(address, namespace, sandboxId))
    .digest("hex");
  const path = join(directory, name);
  if (Buffer.byteLength(path) > maxPathBytes) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot use the socket directory "${directory}": the socket's path would have ${Buffer.byteLength(path)} bytes, at most ${maxPathBytes} are possible`,
    );
  }
  return path;
}

/** Makes the directory of the sockets, for its owner only. */
export async function makeSocketDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new RuntimeError(systemErrorCode(cause), `Cannot make the socket directory "${directory}"`, {
      cause,
    });
  }
}

/** Whether nobody serves there: the errors of connect(2) for a stale or missing socket. */
export function isNobodyThere(error: unknown): boolean {
  const errnos = [errnoOf(error), errnoOf(error instanceof Error ? error.cause : undefined)];
  return errnos.includes("ECONNREFUSED") || errnos.includes("ENOENT");
}
