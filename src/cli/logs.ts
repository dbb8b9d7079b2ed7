import { watch } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { ignore } from "../base/files.ts";
import { type Host, requireRoot } from "./host.ts";
import { keeperGone } from "./keeper.ts";
import { SignalRelay } from "../client/signal-relay.ts";
import { openStandardSink } from "../client/sinks.ts";

const chunkBytes = 64 * 1024;

/** `caisson logs`: what the container has written so far, and with `-f` what it writes until it ends. */
export async function logs(host: Host, options: { containerId: string; follow: boolean }): Promise<number> {
  requireRoot();
  const { containerId } = options;
  const paths = host.containers.paths(containerId);
  await host.containers.load(containerId);
  const file = await open(paths.log, "r").catch(ignore("ENOENT"));
  if (file === undefined) {
    throw new RuntimeError(
      "not_found",
      `Cannot show the output of container "${containerId}": none was kept, a foreground container with --rm keeps none`,
    );
  }
  using relay = new SignalRelay();
  try {
    const copy = copier(file);
    if (options.follow) await follow(paths.log, keeperGone(paths.directory, { signal: relay.aborted }), copy);
    await copy();
    return 0;
  } catch (error) {
    // Whoever reads us has seen enough.
    if (errnoOf(error) === "EPIPE") return 0;
    throw error;
  } finally {
    await file.close();
  }
}

/** Copies from where it was to the present end of the file. */
function copier(file: FileHandle): () => Promise<void> {
  const sink = openStandardSink(1);
  const buffer = Buffer.alloc(chunkBytes);
  let position = 0;
  return async () => {
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
      if (bytesRead === 0) return;
      await sink.write(buffer.subarray(0, bytesRead));
      position += bytesRead;
    }
  };
}

/** Copies at each change until `ended`; what came last is left to the caller. */
async function follow(path: string, ended: Promise<void>, copy: () => Promise<void>): Promise<void> {
  let changed = Promise.withResolvers<void>();
  const watcher = watch(path, () => changed.resolve());
  let isOver = false;
  const over = ended.finally(() => {
    isOver = true;
  });
  over.catch(() => {});
  try {
    while (!isOver) {
      await copy();
      await Promise.race([changed.promise, over]);
      changed = Promise.withResolvers<void>();
    }
  } finally {
    watcher.close();
  }
}
