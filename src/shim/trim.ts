/** A sandbox has come up by then, as a rule. A collection in the middle of it takes some milliseconds and harms nothing. */
const settledMs = 10_000;

/**
 * Gives back, once, what the start has left: garbage, and the code of what is not going to be run again (it is compiled anew if it
 * is). An idle daemon would keep it for ever, because nothing makes it collect. Needs Node's `--expose-gc`, else does nothing.
 */
export function trimOnceSettled(): void {
  setTimeout(() => {
    globalThis.gc?.({ type: "major", execution: "sync", flavor: "last-resort" });
  }, settledMs).unref();
}
