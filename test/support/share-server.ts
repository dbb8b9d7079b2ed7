import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import type { ProcessIdentity } from "../../src/base/processes.ts";
import { parseMountInfo } from "../../src/storage/mount.ts";
import type { SharedDir } from "../../src/storage/shared-dir.ts";
import { startVirtiofsd } from "../../src/storage/virtiofsd.ts";
import { buildPath, requireFiles } from "./cli-build.ts";
import { createTempDir } from "./temp-dir.ts";

/** Of the vhost-user protocol: the request GET_FEATURES in protocol version 1, without a payload. */
const getFeatures = new Uint32Array([1, 1, 0]);

/** Resolves when the virtiofsd at the other end serves: it answers from inside of its namespace. It ends with the connection. */
export async function served(client: Socket): Promise<void> {
  client.write(Buffer.from(getFeatures.buffer));
  await once(client, "data");
}

/** A virtiofsd that serves a shared directory, as a VM's does. */
export interface ShareServer extends AsyncDisposable {
  readonly processes: readonly ProcessIdentity[];
  /** The share as it is served, which is what a guest can reach. */
  readonly root: string;
  /** Mount points in it, without the share itself. */
  mounts(): string[];
}

/** Starts it, and says so to the directory, once it serves. Its end takes the mounts with it. */
export async function serveShare(shared: SharedDir): Promise<ShareServer> {
  const program = buildPath("libexec/virtiofsd");
  requireFiles(program);
  const dir = createTempDir();
  const socketPath = dir.join("socket");
  const user = { uid: 0, gid: 0 };
  const server = await startVirtiofsd({
    program,
    sharedDirectory: shared.path,
    directory: dir.path,
    socketPath,
    user,
  });
  const { pid } = server.identity;
  const client = connect(socketPath);
  const release = async () => {
    client.destroy();
    await server[Symbol.asyncDispose]();
    shared[Symbol.dispose]();
    await dir[Symbol.asyncDispose]();
  };
  try {
    await served(client);
    shared.serve(pid);
  } catch (error) {
    await release();
    throw error;
  }
  const worker = server.worker();
  return {
    processes: [server.identity, ...(worker === undefined ? [] : [worker])],
    root: `/proc/${pid}/root`,
    mounts: () =>
      parseMountInfo(readFileSync(`/proc/${pid}/mountinfo`, "utf8"))
        .map(({ mountPoint }) => mountPoint)
        .filter((point) => point !== "/"),
    [Symbol.asyncDispose]: release,
  };
}
