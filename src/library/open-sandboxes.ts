interface Closable {
  close(): Promise<void>;
}

/** Sandboxes that the program has not closed. */
const open = new Set<Closable>();
let isWatching = false;

/**
 * Closes the sandbox when the program has nothing left to do. (Ended otherwise, by `process.exit`, an exception or a
 * signal, the VM dies with it, and the next program that makes a sandbox removes what is left on the disk.)
 *
 * @returns takes it out again
 */
export function trackOpen(sandbox: Closable): () => void {
  open.add(sandbox);
  if (!isWatching) {
    isWatching = true;
    process.on("beforeExit", () => {
      for (const left of open) void left.close().catch(() => {});
    });
  }
  return () => open.delete(sandbox);
}
