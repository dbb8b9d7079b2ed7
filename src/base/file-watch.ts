import { type FSWatcher, existsSync, watch } from "node:fs";
import { dirname } from "node:path";
import { errnoOf } from "./errors.ts";

/** A file that is waited for. Disposing ends the wait; `appeared` then stays open for ever. */
export interface FileWatch extends Disposable {
  /** Resolves when the file is there. Never rejects. */
  readonly appeared: Promise<void>;
}

/** How often is looked where the host has no inotify instance left. */
const pollMs = 5;

/**
 * Watches for a file that another process is about to make; call this before that process is started.
 *
 * Each process that ever watched keeps one inotify instance until it ends (libuv), and a user has 128 of them by
 * default (fs.inotify.max_user_instances). With more sandboxes than that the wait goes on with looking now and then.
 */
export function watchForFile(path: string): FileWatch {
  const appeared = Promise.withResolvers<void>();
  const look = () => {
    if (existsSync(path)) appeared.resolve();
  };
  const stop = watchDirectory(dirname(path), look);
  look();
  return { appeared: appeared.promise, [Symbol.dispose]: stop };
}

function watchDirectory(directory: string, look: () => void): () => void {
  let watcher: FSWatcher;
  try {
    watcher = watch(directory, look);
  } catch (error) {
    if (!["EMFILE", "ENOSPC"].includes(errnoOf(error) ?? "")) throw error;
    const timer = setInterval(look, pollMs);
    return () => clearInterval(timer);
  }
  // The directory was removed: the process that waits for the file learns it from the end of the one that makes it.
  watcher.on("error", () => {});
  return () => watcher.close();
}
