import { constants } from "node:fs";
import { type FileHandle, open, unlink } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { errnoOf } from "../base/errors.ts";
import { ignore } from "../base/files.ts";

/**
 * The right to change a container's files and to end it. One process has it at a time: the one that creates the
 * container, then the one that waits for its end, else whoever wants to end or remove it.
 *
 * It is a Unix socket that the holder listens on. Others connect and see the connection close when the holder is done
 * or dead, so that nobody polls.
 */
export interface Keeper extends AsyncDisposable {
  /** Aborts when somebody cannot wait any more: what is left to do shall be cut short. */
  readonly hurried: AbortSignal;
}

export interface WaitOptions {
  readonly signal?: AbortSignal;
  /** After so long the holder is told that we cannot wait any more. */
  readonly hurryAfterMs?: number;
}

const socketName = "keeper.sock";

/**
 * Takes the right, after whoever has it now. Undefined when the container's directory is gone.
 *
 * @throws canceled  the signal's reason
 */
export async function takeKeeper(directory: string, options: WaitOptions = {}): Promise<Keeper | undefined> {
  for (;;) {
    options.signal?.throwIfAborted();
    const handle = await openDirectory(directory);
    if (handle === undefined) return undefined;
    // Through the directory's descriptor, because a socket's path has to be shorter than 108 bytes (unix(7)).
    const path = `/proc/self/fd/${handle.fd}/${socketName}`;
    const keeper = await listen(path, handle);
    if (keeper !== undefined) return keeper;
    try {
      if ((await waitForHolder(path, options)) === "stale") await unlink(path).catch(ignore("ENOENT"));
    } finally {
      await handle.close();
    }
  }
}

/** Whether somebody has the right now. */
export async function hasKeeper(directory: string): Promise<boolean> {
  const controller = new AbortController();
  const gone = keeperGone(directory, { signal: controller.signal, onHeld: () => controller.abort() });
  return gone.then(
    () => false,
    () => true,
  );
}

/** Resolves when nobody has the right any more: at once when nobody has it now. */
export async function keeperGone(
  directory: string,
  options: { signal?: AbortSignal; onHeld?: () => void } = {},
): Promise<void> {
  const handle = await openDirectory(directory);
  if (handle === undefined) return;
  try {
    await waitForHolder(`/proc/self/fd/${handle.fd}/${socketName}`, options);
  } finally {
    await handle.close();
  }
}

async function openDirectory(directory: string): Promise<FileHandle | undefined> {
  return (
    (await open(directory, constants.O_RDONLY | constants.O_DIRECTORY).catch(ignore("ENOENT"))) ?? undefined
  );
}

/** Undefined when somebody else listens there, or did and died, or the directory is being removed. */
async function listen(path: string, directory: FileHandle): Promise<Keeper | undefined> {
  const waiting = new Set<Socket>();
  const hurried = new AbortController();
  const server = createServer((socket) => {
    waiting.add(socket);
    socket.on("error", () => {
      // It does not wait any more.
    });
    // Whatever is said means that.
    socket.on("data", () => hurried.abort());
    socket.on("close", () => waiting.delete(socket));
    socket.unref();
  });
  server.unref();
  const failure = await listening(server, path);
  if (failure === "taken") return undefined;
  if (failure !== undefined) {
    await directory.close();
    throw failure;
  }
  let closing: Promise<void> | undefined;
  const close = async () => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    for (const socket of waiting) socket.destroy();
    await closed;
    await directory.close();
  };
  return { hurried: hurried.signal, [Symbol.asyncDispose]: () => (closing ??= close()) };
}

function listening(server: Server, path: string): Promise<Error | "taken" | undefined> {
  return new Promise((resolve) => {
    server.once("error", (error) => {
      resolve(["EADDRINUSE", "ENOENT"].includes(errnoOf(error) ?? "") ? "taken" : error);
    });
    server.listen(path, () => resolve(undefined));
  });
}

/** Resolves when the holder has let go; "stale" when there is only the socket file of a dead one. */
function waitForHolder(
  path: string,
  { signal, hurryAfterMs, onHeld }: WaitOptions & { readonly onHeld?: () => void },
): Promise<"ended" | "stale"> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const socket = connect(path, onHeld);
    const hurry = hurryAfterMs === undefined ? undefined : setTimeout(() => socket.write("!"), hurryAfterMs);
    const onAbort = () => socket.destroy();
    signal?.addEventListener("abort", onAbort, { once: true });
    let failure: unknown;
    socket.on("error", (error) => {
      failure = error;
    });
    socket.on("close", () => {
      clearTimeout(hurry);
      signal?.removeEventListener("abort", onAbort);
      if (signal?.aborted) reject(signal.reason as Error);
      else if (errnoOf(failure) === "ECONNREFUSED") resolve("stale");
      // Reset, end of file, or gone before we came: the holder has let go.
      else resolve("ended");
    });
    socket.resume();
  });
}
