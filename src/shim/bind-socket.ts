import { randomBytes } from "node:crypto";
import { rename, rm } from "node:fs/promises";
import { connect } from "node:net";
import { codeOf, RuntimeError } from "../base/errors.ts";
import type { TtrpcServer } from "../ttrpc/server.ts";
import { isNobodyThere } from "./socket-path.ts";

/**
 * Serves at `path`, in place of a socket that nobody serves any more. False: somebody does.
 *
 * @throws unavailable  stale sockets appear there again and again
 */
export async function bindSocket(server: TtrpcServer, path: string): Promise<boolean> {
  for (let attempt = 0; attempt < 3; attempt++) {
    try {
      await server.listen(path);
      return true;
    } catch (error) {
      if (codeOf(error) !== "already_exists") throw error;
    }
    if (await isServed(path)) return false;
    await removeStale(path);
  }
  throw new RuntimeError(
    "unavailable",
    `Cannot listen on "${path}": a socket without a server comes back again and again`,
  );
}

/** Takes the socket away and looks again: another daemon may have bound it since it was found stale. */
async function removeStale(path: string): Promise<void> {
  const aside = `${path}.${randomBytes(3).toString("hex")}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (isNobodyThere(error)) return;
    throw error;
  }
  if (await isServed(aside)) await rename(aside, path);
  else await rm(aside, { force: true });
}

function isServed(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error) => {
      if (isNobodyThere(error)) resolve(false);
      else reject(error);
    });
  });
}
