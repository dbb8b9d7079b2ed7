import { isAbsolute, join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { writeFileAtomic } from "../base/files.ts";
import { isSandboxBundle } from "./group.ts";
import { identityOf, writeRecord } from "./record.ts";

/** A sandbox, and where this process serves it. */
export interface ServedPlace {
  readonly stateDirectory: string;
  readonly namespace: string;
  readonly sandboxId: string;
  readonly socketPath: string;
  /** Whether the process can have other sandboxes too. */
  readonly servesMany: boolean;
}

/** Who called `start`, and for what. */
export interface StartCaller {
  readonly containerId: string;
  readonly bundle: string;
  /** It is a containerd from 2.3 on. */
  readonly isCurrent: boolean;
}

/**
 * Notes in a container's bundle and in the state directory that this process serves it, and returns what `start` prints.
 *
 * @throws invalid_argument  the bundle's path is not absolute
 */
export async function noteContainer(
  { stateDirectory, namespace, sandboxId, socketPath, servesMany }: ServedPlace,
  { containerId, bundle, isCurrent }: StartCaller,
): Promise<Uint8Array> {
  if (!isAbsolute(bundle)) {
    throw new RuntimeError("invalid_argument", `Cannot use bundle "${bundle}": expected an absolute path`);
  }
  const address = `unix://${socketPath}`;
  await writeFileAtomic(join(bundle, "address"), address, 0o644);
  const record = { sandboxId, socketPath, daemon: identityOf(process.pid), servesMany };
  await writeRecord(stateDirectory, namespace, containerId, record);
  return Buffer.from(formatAnswer(address, isCurrent || isSandboxBundle(bundle)));
}

/**
 * The address, and where the caller understands it the version of the interface: with 3 containerd adds the other containers
 * of a pod to the daemon without `start` and `delete`. Since 2.0 it does, and only such a one has bundles of sandboxes;
 * with others those from 2.3 on can be told by what they write to stdin.
 */
function formatAnswer(address: string, isCurrent: boolean): string {
  return isCurrent ? JSON.stringify({ version: 3, address, protocol: "ttrpc" }) : address;
}
